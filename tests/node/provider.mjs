// An OpenID provider whose users need no password. Argument: the clients, as a JSON object of redirect addresses and
// back-channel addresses by client id. Logout tokens for a client `without-sid...` name the user only.
// It prints its issuer once it listens, and the outcome of each logout request.
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import { Provider } from 'oidc-provider';

const clients = JSON.parse(process.argv[2]);
const server = createServer();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

function newKey(kid) {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), kid, use: 'sig', alg: 'RS256' };
}

const provider = new Provider(issuer, {
  clients: Object.entries(clients).map(([id, { redirect, logout }]) => ({
    client_id: id,
    client_secret: `secret-of-${id}`,
    redirect_uris: [redirect],
    backchannel_logout_uri: logout,
    backchannel_logout_session_required: !id.startsWith('without-sid'),
  })),
  jwks: { keys: [newKey('first')] },
  cookies: { keys: ['a key for tests'] },
  features: { backchannelLogout: { enabled: true } },
  pkce: { required: () => false },
  // Without the library's guard against private addresses, and without its limit of 2.5 seconds.
  fetch: (url, { dispatcher, ...options }) =>
    fetch(url, { ...options, signal: AbortSignal.timeout(30_000) }),
});
provider.on('backchannel.error', (_context, error, client) => {
  console.log(`logout of ${client.clientId} failed: ${error.message}`);
});
provider.on('backchannel.success', (_context, client) => {
  console.log(`logout of ${client.clientId} succeeded`);
});
provider.on('server_error', (_context, error) => console.log(error));
server.on('request', provider.callback());
console.log(`issuer ${issuer}`);
