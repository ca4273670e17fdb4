vcl 4.1;
# Gateway for Sluice: passes streams on, logs no query, and never answers an EventSource with 502, 503 or 504. Nothing is
# cached. Metrics, details of readiness and the API reference are not passed on. Varnish 7.1 or later; start.sh starts it.
# Varnish has no TLS: a TLS terminator stands in front, is a hop of its own for `TRUST_PROXY`, and sets X-Forwarded-Proto.
import directors;
import std;

# A replica that drains answers 503 to the probe and gets no new requests.
probe readyz { .url = "/readyz"; .interval = 1s; .timeout = 5s; .window = 1; .threshold = 1; .initial = 1; }
# Names are resolved when this file is loaded: load it again when a replica has got a new address.
# SSE has a heartbeat every 15 s. An answer of /v1 without `stream` sends nothing for up to ten minutes.
backend sluice_1 {
  .host = "sluice-1:3000";
  .probe = readyz;
  .connect_timeout = 1s;
  .first_byte_timeout = 620s;
  .between_bytes_timeout = 620s;
}
backend sluice_2 {
  .host = "sluice-2:3000";
  .probe = readyz;
  .connect_timeout = 1s;
  .first_byte_timeout = 620s;
  .between_bytes_timeout = 620s;
}

sub vcl_init {
  # Varnish cannot prefer the least busy replica. With random keys, `shard` spreads requests and finds another replica.
  new replicas = directors.shard();
  replicas.add_backend(sluice_1);
  replicas.add_backend(sluice_2);
  replicas.reconfigure();
}

sub vcl_recv {
  # A retry carries the same id, so the question is asked once.
  set req.http.X-Request-Id = std.real2integer(std.random(0, 1000000000), 0) + "-"
    + std.real2integer(std.random(0, 1000000000), 0) + "-" + std.time2integer(now, 0) + "-" + req.xid;
  set req.http.X-Path = regsub(req.url, "\?.*", "");
  std.log("request:" + req.http.X-Request-Id);
  std.log("path:" + req.http.X-Path);

  # Varnish passes on what follows a `#`; a replica takes it as the query.
  if (req.http.X-Path ~ "#") {
    return (synth(400));
  }
  # Paths for operators. Prometheus and probes reach the replicas directly. Here and below any prefix matches, because
  # `BASE_PATH` may set one. Clients choose the names behind `ui/chat` and `v1/models`, so these pass, unless the prefix
  # itself is a path for operators. Varnish does not decode paths, so a path is refused if it encodes letters, digits, `-`,
  # `.`, `_` or `~`, which clients never do.
  if (req.http.X-Path ~ "(?i)%(2[de]|3[0-9]|[46][1-9a-f]|[57][0-9a]|5f|7e)" ||
      req.http.X-Path ~ "^[^/]|//|/\.\.?(/|$)" ||
      req.http.X-Path ~ "(?i)/(metrics|docs|openapi\.json)/(.*/)?(ui/chat|v1/models)/" ||
      (req.http.X-Path ~ "(?i)/(metrics|docs|openapi\.json)(/|$)" &&
       req.http.X-Path !~ "^(/[A-Za-z0-9._~-]+)*/(ui/chat/[^/]+/stream/?|v1/models/.+)$") ||
      (req.http.X-Path ~ "(?i)/readyz/?$" && req.url ~ "\?.")) {
    return (synth(404));
  }
  if (std.integer(req.http.Content-Length, 0) > 16777216) {
    return (synth(413));
  }
  return (pass);
}

sub vcl_backend_fetch {
  unset bereq.http.X-Path;
  # Another replica for each retry.
  set bereq.backend =
    replicas.backend(by = KEY, key = replicas.key(bereq.http.X-Request-Id), alt = bereq.retries);
  return (fetch);
}

sub vcl_backend_response {
  set beresp.uncacheable = true;
  set beresp.do_stream = true;
  return (deliver);
}

sub vcl_backend_error {
  # The next replica gets a request that has reached none, and a GET that was not answered. Varnish does not repeat a request
  # whose body it has sent.
  if (bereq.retries == 0) {
    return (retry);
  }
  return (abandon);
}

sub vcl_deliver {
  unset resp.http.X-Varnish;
  unset resp.http.Via;
  unset resp.http.Age;
  return (deliver);
}

sub vcl_synth {
  unset resp.http.X-Varnish;
  unset resp.http.Server;
  if (resp.status != 503) {
    set resp.http.Content-Type = "text/plain";
    synthetic(resp.reason);
    return (deliver);
  }
  if (req.method == "GET" && req.http.X-Path ~ "/(ask/stream|streams/[^/]+)/?$" &&
      req.http.Accept ~ "(?i)text/event-stream") {
    # An EventSource does not reconnect after a 5xx, so it gets `200` with the opening block of Sluice's own responses, which
    # tells it to come back. Other clients, and other protocols, get the status.
    set resp.status = 200;
    set resp.http.Content-Type = "text/event-stream";
    set resp.http.Cache-Control = "no-cache, no-transform";
    if (req.http.Origin) {
      set resp.http.Access-Control-Allow-Origin = req.http.Origin;
    }
    # Id of the last event that the client has: only what looks like one is sent back, because clients choose the text.
    if (!req.http.Last-Event-ID) {
      set req.http.Last-Event-ID = regsub(req.url, "^[^?]*(\?|\?.*&)lastEventId=([^&]*).*$|^.*$", "\2");
    }
    if (req.http.Last-Event-ID !~ "^[A-Za-z0-9_-]{16,64}\.([0-9]{1,15}|end)$") {
      set req.http.Last-Event-ID = "";
    }
    # WebKit joins the half-received event of a cut response to the next response. The first line ends it, and may be spoilt.
    if (req.http.Last-Event-ID == "") {
      set req.http.X-First-Line = "event: ready";
    } else {
      set req.http.X-First-Line = "id: " + req.http.Last-Event-ID;
    }
    # The delay is random, to spread reconnects over time.
    synthetic(req.http.X-First-Line + {"
id: "} + req.http.Last-Event-ID + {"
event: ready
retry: "} + std.real2integer(std.random(600, 1500), 1000) + {"
data: {}

"});
    return (deliver);
  }
  set resp.http.Content-Type = "application/json";
  set resp.http.Retry-After = "2";
  synthetic({"{"error":{"code":"overloaded","message":"No replica is available; retry later.","requestId":""}
    + req.http.X-Request-Id + """"}}""");
  return (deliver);
}
