-- Asks the gateway of Session Authority about each request. HAProxy 2.6 or newer. Use it in a frontend or backend:
--     http-request lua.session http://127.0.0.1:50552/verify?session=required

-- Only the gateway sets these headers.
local IDENTITY = {
    "x-session-user-id",
    "x-session-id",
    "x-session-authenticate-time",
    "x-session-authentication-methods",
    "x-session-actor-id",
}
-- Headers about the connection or the body, which are not the gateway's business.
local NOT_SENT = { "connection", "content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade" }
local TIMEOUT_MILLISECONDS = 6000

local function headers_of(txn)
    local headers = {}
    for name, values in pairs(txn.http:req_get_headers()) do
        local list = {}
        for index = 0, #values do
            list[#list + 1] = values[index]
        end
        headers[name] = list
    end
    for _, name in ipairs(NOT_SENT) do
        headers[name] = nil
    end
    headers["x-forwarded-method"] = { txn.sf:method() }
    headers["x-forwarded-uri"] = { txn.sf:pathq() }
    headers["x-forwarded-host"] = headers["host"]
    headers["x-forwarded-proto"] = { txn.sf:ssl_fc() == "1" and "https" or "http" }
    headers["x-forwarded-for"] = { txn.sf:src() }
    return headers
end

local function refuse(txn, answer)
    local reply = txn:reply({ status = answer.status, body = answer.body or "" })
    for name, values in pairs(answer.headers or {}) do
        if name ~= "content-length" and name ~= "connection" and name ~= "transfer-encoding" then
            for _, value in pairs(values) do
                reply:add_header(name, value)
            end
        end
    end
    txn:done(reply)
end

core.register_action("session", { "http-req" }, function(txn, url)
    local client = core.httpclient()
    local ok, answer = pcall(client.get, client, { url = url, headers = headers_of(txn), timeout = TIMEOUT_MILLISECONDS })
    if not ok or answer == nil or answer.status == 0 or answer.headers == nil or answer.headers["vary"] == nil then
        -- The gateway did not answer: HAProxy itself did.
        answer = { status = 503, headers = { ["retry-after"] = { "5" }, ["cache-control"] = { "no-store" } } }
    end
    if answer.status ~= 200 then
        return refuse(txn, answer)
    end
    for _, name in ipairs(IDENTITY) do
        txn.http:req_del_header(name)
        local values = answer.headers[name]
        if values then
            txn.http:req_set_header(name, values[0])
        end
    end
end, 1)
