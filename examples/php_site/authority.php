<?php
// Calls Session Authority over HTTP and JSON, through the gateway.
declare(strict_types=1);

const GATEWAY = 'http://127.0.0.1:50554';
const ATTEMPTS = 3;

// The call failed. `$status` is a code of gRPC, such as "unavailable", and `$reason` one of the authority's reasons.
final class CallFailed extends Exception
{
    public function __construct(public readonly string $status, public readonly string $reason, string $message)
    {
        parent::__construct($message);
    }
}

// Call a method, and repeat the call during a short outage. A repeated CreateSession needs a `retrySecret`.
function call(string $method, array $request): array
{
    for ($attempt = 1; ; $attempt++) {
        [$status, $answer] = post("/session_authority.v1.SessionService/$method", $request);
        if ($status === 200) {
            return $answer;
        }
        if (!in_array($status, [0, 429, 503]) || $attempt === ATTEMPTS) {
            $reason = $answer['details'][0]['debug']['reason'] ?? '';
            throw new CallFailed($answer['code'] ?? 'unavailable', $reason, $answer['message'] ?? 'no answer');
        }
        usleep(250_000);
    }
}

// Return the current time in the form of the API.
function moment(): string
{
    return (new DateTimeImmutable('now', new DateTimeZone('UTC')))->format('Y-m-d\TH:i:s.u\Z');
}

// Send a request. Return the HTTP status and the answer; the status is 0 if nothing answers.
function post(string $path, array $request): array
{
    $context = stream_context_create(['http' => [
        'method' => 'POST',
        'header' => ['Content-Type: application/json', 'Authorization: Bearer ' . getenv('SESSION_AUTHORITY_API_KEY')],
        'content' => json_encode((object) $request, JSON_THROW_ON_ERROR | JSON_INVALID_UTF8_SUBSTITUTE),
        'timeout' => 6,
        'follow_location' => 0,
        'ignore_errors' => true, // return the body of an error too
    ]]);
    $stream = @fopen((getenv('SESSION_AUTHORITY_JSON') ?: GATEWAY) . $path, 'r', false, $context);
    if ($stream === false) {
        return [0, []];
    }
    $status = (int) explode(' ', stream_get_meta_data($stream)['wrapper_data'][0])[1];
    return [$status, json_decode((string) stream_get_contents($stream), true) ?? []];
}
