<?php
// Sign a user in, check the session, list the user's sessions and end one.
declare(strict_types=1);
require __DIR__ . '/php_site/authority.php';

$created = call('CreateSession', [
    'userId' => 'ada',
    'userAgent' => 'Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0',
    'authenticateTime' => moment(), // when the password check began
    'authenticationMethods' => ['pwd'],
    'retrySecret' => base64_encode(random_bytes(32)), // makes a repetition of this call safe
]);
$token = $created['sessionToken'];

$validated = call('ValidateSession', ['sessionToken' => $token]);
echo 'live: ', $validated['session']['userId'], "\n";

foreach (call('ListSessions', ['sessionToken' => $token])['sessions'] as $session) {
    echo $session['device']['displayName'], $session['current'] ? ' (this device)' : '', "\n";
}

$revoked = call('RevokeSession', ['sessionToken' => $token, 'sessionId' => $created['session']['sessionId']]);
echo 'no service accepts it after ', $revoked['effectiveTime'], "\n";

// An invalid session is an answer, not an error.
$validated = call('ValidateSession', ['sessionToken' => $token]);
echo 'rejected: ', $validated['rejection']['reason'], "\n";

try {
    call('ListSessions', ['sessionToken' => $token]);
} catch (CallFailed $failure) {
    echo "refused: $failure->status, $failure->reason\n";
}
