<?php
// A small site: users sign in, see where they are signed in, and log out any device.
//
//     SESSION_AUTHORITY_API_KEY=sak_... php -S 127.0.0.1:8000 index.php
declare(strict_types=1);
require __DIR__ . '/authority.php';

// The password is "lovelace". A real site has a table of users.
const USERS = ['ada' => '$2y$10$Qoa.7r/65h2.jRdzh/BUK.dir2pvpj0mAkwIvxxB61h7JYc0u7zJq'];
const COOKIE = 'auth_session';
const COOKIE_SECONDS = 400 * 24 * 60 * 60; // as long as browsers allow, because the authority ends the session

header('Cache-Control: no-store');
header("Content-Security-Policy: default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'");
header('Referrer-Policy: same-origin');

try {
    answer($_SERVER['REQUEST_METHOD'] . ' ' . parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH));
} catch (CallFailed $failure) {
    error_log("$failure->status $failure->reason {$failure->getMessage()}");
    if ($failure->reason === 'SESSION_NOT_LIVE') { // ended since it was validated
        redirect('/sign-in');
    } elseif (in_array($failure->status, ['invalid_argument', 'not_found', 'failed_precondition'])) {
        page(400, 'That did not work', '<p><a href="/">Back</a></p>');
    } else { // an outage says nothing about the session, so keep the cookie
        header('Retry-After: 5');
        page(503, 'Try again soon', '<p>We cannot check your sign-in at the moment.</p>');
    }
}

function answer(string $request): void
{
    if ($_SERVER['REQUEST_METHOD'] === 'POST' && !comes_from_this_site()) {
        page(403, 'Not allowed', '<p>This form was sent from another site.</p>');
        return;
    }
    if ($request === 'GET /sign-in' || $request === 'POST /sign-in') {
        sign_in();
        return;
    }
    $session = current_session();
    if ($session === null) {
        redirect('/sign-in');
        return;
    }
    match ($request) {
        'GET /' => list_sessions($session),
        'POST /log-out' => log_out(),
        'POST /log-out-others' => log_out_others(),
        'POST /sign-out' => sign_out(),
        default => page(404, 'Not found', '<p><a href="/">Back</a></p>'),
    };
}

function sign_in(): void
{
    $problem = '';
    if ($_SERVER['REQUEST_METHOD'] === 'POST') {
        $began = moment(); // a "log out everywhere" from now on also ends this sign-in
        $user = text($_POST, 'user');
        if (password_verify(text($_POST, 'password'), USERS[$user] ?? '')) {
            $created = call('CreateSession', [
                'userId' => $user,
                'ipAddress' => $_SERVER['REMOTE_ADDR'],
                'userAgent' => $_SERVER['HTTP_USER_AGENT'] ?? '',
                'authenticateTime' => $began,
                'authenticationMethods' => ['pwd'],
                'retrySecret' => base64_encode(random_bytes(32)), // a repeated call creates no second session
            ]);
            set_session_cookie($created['sessionToken'], COOKIE_SECONDS);
            redirect('/');
            if (token() !== '') { // the browser's earlier session, if any
                call('SignOut', ['sessionToken' => token()]);
            }
            return;
        }
        $problem = '<p role="alert">Wrong name or password.</p>';
    }
    page($problem === '' ? 200 : 401, 'Sign in', $problem . '<form method="post">
        <label>Name <input name="user" autocomplete="username" required></label>
        <label>Password <input name="password" type="password" autocomplete="current-password" required></label>
        <button>Sign in</button></form>');
}

// Return the session of the request; null if the user must sign in.
function current_session(): ?array
{
    if (token() === '') {
        return null;
    }
    $answer = call('ValidateSession', ['sessionToken' => token(), 'ipAddress' => $_SERVER['REMOTE_ADDR']]);
    if (!isset($answer['session'])) {
        set_session_cookie('', 0);
    }
    return $answer['session'] ?? null;
}

function list_sessions(array $session): void
{
    $answer = call('ListSessions', ['sessionToken' => token(), 'pageToken' => text($_GET, 'page')]);
    $rows = '';
    foreach ($answer['sessions'] as $each) {
        $device = html($each['device']['displayName']);
        $place = html($each['ipAddress']) . ', last active ' . html(substr($each['lastActiveTime'], 0, 16));
        $action = $each['current'] ? 'this device' : form('/log-out', "Log out $device", $each['sessionId']);
        $rows .= "<li>$device, $place: $action</li>";
    }
    if ($answer['nextPageToken'] !== '') {
        $rows .= '<li><a href="/?page=' . html(urlencode($answer['nextPageToken'])) . '">More</a></li>';
    }
    $user = html($session['userId']);
    page(200, 'Your sessions', "<p>Signed in as $user.</p><ul>$rows</ul>"
        . form('/log-out-others', 'Log out all other devices') . form('/sign-out', 'Sign out'));
}

function log_out(): void
{
    call('RevokeSession', ['sessionToken' => token(), 'sessionId' => text($_POST, 'session_id')]);
    redirect('/');
}

function log_out_others(): void
{
    call('RevokeOtherSessions', ['sessionToken' => token()]);
    redirect('/');
}

function sign_out(): void
{
    call('SignOut', ['sessionToken' => token()]);
    set_session_cookie('', 0);
    redirect('/sign-in');
}

// Browsers send the origin of the page that has the form. Another site can't change it.
function comes_from_this_site(): bool
{
    return ($_SERVER['HTTP_ORIGIN'] ?? '') === (is_https() ? 'https' : 'http') . '://' . $_SERVER['HTTP_HOST'];
}

// Set SITE_IS_HTTPS=on if a proxy in front of PHP terminates TLS.
function is_https(): bool
{
    return ($_SERVER['HTTPS'] ?? '') !== '' || getenv('SITE_IS_HTTPS') === 'on';
}

// Only a site on the developer's own machine has no HTTPS. Its cookie has no prefix and is not Secure.
function cookie_name(): string
{
    $is_local = !is_https() && preg_match('/^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$/', $_SERVER['HTTP_HOST']);
    return ($is_local ? '' : '__Host-') . COOKIE;
}

function token(): string
{
    return text($_COOKIE, cookie_name());
}

function set_session_cookie(string $token, int $seconds): void
{
    $name = cookie_name();
    $expires = $seconds === 0 ? '; Expires=Thu, 01 Jan 1970 00:00:00 GMT' : '';
    $secure = $name === COOKIE ? '' : '; Secure';
    header("Set-Cookie: $name=$token; Path=/; Max-Age=$seconds$expires$secure; HttpOnly; SameSite=Lax", false);
}

// Return a value that a browser sent. A request can also send a list, which counts as nothing.
function text(array $given, string $name): string
{
    return is_string($given[$name] ?? null) ? $given[$name] : '';
}

function form(string $action, string $label, string $session_id = ''): string
{
    $field = $session_id === '' ? '' : '<input type="hidden" name="session_id" value="' . html($session_id) . '">';
    return "<form method=\"post\" action=\"$action\">$field<button>$label</button></form>";
}

function html(string $text): string
{
    return htmlspecialchars($text, ENT_QUOTES | ENT_SUBSTITUTE);
}

function redirect(string $path): void
{
    header("Location: $path", true, 303);
}

function page(int $status, string $title, string $body): void
{
    http_response_code($status);
    echo "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>$title</title><h1>$title</h1>$body</html>";
}
