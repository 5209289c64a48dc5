"""The Django shop with a WebSocket, which closes when its user's session ends."""

import django_app  # This configures Django, which the imports below need.

# isort: split
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.contrib.auth.decorators import login_required
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from session_authority.web.django.channels import SessionAuthorityMiddlewareStack

PAGE = """<p><label>Say something <input onchange="chat.send(value)"></label><output id="reply"></output></p>
<script>const chat = new WebSocket("/chat")
chat.onmessage = (message) => { reply.value = message.data }
chat.onclose = (end) => { if (end.code === 1008) location.reload() }</script>"""


@login_required
def chat_page(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(django_app.HEAD + PAGE)


class Chat(AsyncWebsocketConsumer):  # type: ignore[misc] # Channels has no types
    async def connect(self) -> None:
        if self.scope["user"].is_authenticated:
            await self.accept()
        else:
            await self.close()

    async def receive(self, text_data: str = "", bytes_data: bytes = b"") -> None:
        await self.send(f"{self.scope['user']} says: {text_data}")


django_app.urlpatterns.append(path("chat", chat_page))
socket = URLRouter([path("chat", Chat.as_asgi())])
application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": SessionAuthorityMiddlewareStack(AllowedHostsOriginValidator(socket)),
    }
)
