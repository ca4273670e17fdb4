-- The parts of the gateway that Apache's directives cannot express. Used by httpd.conf.

local UNAVAILABLE = 'sluice-unavailable'

-- Returns the method, the path and the query as the client has sent them.
local function requestOf(r)
  local method, target = r.the_request:match('^(%S+) /(%S*)')
  return method, target or '', (target or ''):match('^[^?]*'), (target or ''):match('%?(.*)') or ''
end

-- Returns true for a path of operators. Prometheus and probes reach the replicas directly. `r.uri` is decoded and normalized.
-- Here and below any prefix matches, because `BASE_PATH` may set one.
local function isInternal(r)
  local path = r.uri:lower()
  if path:match('/readyz/?$') and (r.args or '') ~= '' then return true end
  -- Clients choose the names behind `ui/chat` and `v1/models`: only the prefix can be a path for operators.
  local prefix = path:match('^([%w._~/-]*)/ui/chat/[^/]+/stream/?$') or path:match('^([%w._~/-]*)/v1/models/.')
  for segment in (prefix or path):gmatch('[^/]+') do
    if segment == 'metrics' or segment == 'docs' or segment == 'openapi.json' then return true end
  end
  return false
end

-- Runs before every request, also before one that an ErrorDocument repeats.
function prepare(r)
  -- For the log: an ErrorDocument makes a GET of every request.
  r.subprocess_env['METHOD'] = r.method
  if isInternal(r) then return 404 end
  local isRepeated = r.subprocess_env['REDIRECT_STATUS'] ~= nil
  -- Apache uses an ErrorDocument only if the status is 200 until then.
  if isRepeated then r.status = 200 end
  -- A repeated request has the same UNIQUE_ID, so the question is asked once. The hash hides how ids are counted.
  local id = r:sha1(r.subprocess_env['UNIQUE_ID'])
  r.subprocess_env['REQUEST_ID'] = id
  r.headers_in['X-Request-Id'] = id
  -- A client may name headers here that the proxy has to remove, this one included.
  r.headers_in['Connection'] = nil
  r.headers_in['X-Forwarded-Proto'] = r.is_https and 'https' or 'http'
  local method, target = requestOf(r)
  r.subprocess_env['PATH_AFTER_502'] = method == 'GET' and not isRepeated and target or UNAVAILABLE
  return apache2.DECLINED
end

-- Returns the id of the last event that the client has: only what looks like one, because clients choose the text.
local function lastIdOf(r, query)
  local id = r.headers_in['Last-Event-ID'] or ''
  if id == '' then id = ('&' .. query):match('&lastEventId=([^&]*)') or '' end
  local stream, position = id:match('^([%w_-]+)%.(%w+)$')
  if not stream or #stream < 16 or #stream > 64 then return '' end
  if position ~= 'end' and not (position:match('^%d+$') and #position <= 15) then return '' end
  return id
end

-- Answers when no replica can be reached.
function unavailable(r)
  if not r.subprocess_env['REDIRECT_STATUS'] then return 404 end
  local id = r.subprocess_env['REQUEST_ID']
  local method, _, path, query = requestOf(r)
  path = '/' .. path:gsub('/$', '')
  local isStream = path:match('/ask/stream$') or path:match('/streams/[^/]+$')
  local accept = (r.headers_in['Accept'] or ''):lower()
  if method == 'GET' and isStream and accept:find('text/event-stream', 1, true) then
    -- An EventSource does not reconnect after a 5xx, so it gets `200` with the opening block of Sluice's own responses,
    -- which tells it to come back. Other clients, and other protocols, get the status.
    local lastId = lastIdOf(r, query)
    -- WebKit joins the half-received event of a cut response to the next response. The first line ends it, and may be spoilt.
    local firstLine = lastId == '' and 'event: ready' or 'id: ' .. lastId
    -- Spreads reconnects over time.
    local retryMs = 600 + tonumber(id:sub(1, 4), 16) % 900
    r.status = 200
    r.content_type = 'text/event-stream'
    r.headers_out['Cache-Control'] = 'no-cache, no-transform'
    r.headers_out['Access-Control-Allow-Origin'] = r.headers_in['Origin']
    r:puts(firstLine, '\nid: ', lastId, '\nevent: ready\nretry: ', retryMs, '\ndata: {}\n\n')
    return apache2.OK
  end
  r.status = 503
  r.content_type = 'application/json'
  r.headers_out['Retry-After'] = '2'
  r:puts('{"error":{"code":"overloaded","message":"No replica is available; retry later.","requestId":"', id, '"}}')
  return apache2.OK
end
