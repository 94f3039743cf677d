-- Decides if this request fails, and in which way. Settings (a shared dictionary):
--   mode    status, drop, reset, delay, stall, rate, truncate, norange, shift, toomany, norangeheader,
--           nosize, redirect, circle, coded, replaced, endless, damaged, longheader
--   every   each Nth matching request (1)          first   only so many of them
--   skip    so many matching requests pass before  seconds  only for so long from the first on
--   match   a Lua pattern on "METHOD URI RANGE"
--   status, code, message, retry_after, type, link, body, times (of the body)   of mode status
--   status  of endless: of a response whose body does not end; of circle: 307 if absent
--   onward  of circle: not to the same address, but each time to another one
--   ms      of delay: milliseconds before the answer
--   bps     of rate: bytes per second
--   bytes   of truncate: of the body that pass
--   to      of redirect: the prefix of the new address
local d = ngx.shared.faults
local mode = d:get("mode")
if not mode then return end
local match = d:get("match")
local range = ngx.var.http_range or ngx.var.http_x_ms_range or ""
if match and not string.find(ngx.req.get_method() .. " " .. ngx.var.request_uri .. " " .. range, match) then
  return
end
local n = d:incr("seen", 1, 0) - (tonumber(d:get("skip")) or 0)
if n <= 0 or n % (tonumber(d:get("every")) or 1) ~= 0 then return end
local first = tonumber(d:get("first"))
if first and n / (tonumber(d:get("every")) or 1) > first then return end
local seconds = tonumber(d:get("seconds"))
if seconds then
  ngx.update_time()
  d:add("start", ngx.now())
  if ngx.now() - d:get("start") > seconds then return end
end
d:incr("hits", 1, 0)

local function number(name, otherwise) return tonumber(d:get(name)) or otherwise end

if mode == "status" or mode == "endless" then
  -- nginx would compare them with this response.
  ngx.req.clear_header("If-Match")
  ngx.req.clear_header("If-Unmodified-Since")
end
if mode == "status" then
  local code = d:get("code") or "InternalError"
  local message = d:get("message") or "on purpose"
  ngx.status = number("status", 503)
  ngx.header["Content-Type"] = d:get("type") or "application/xml"
  ngx.header["Link"] = d:get("link")
  ngx.header["Retry-After"] = d:get("retry_after")
  ngx.header["x-amz-request-id"] = "REQUEST-ID-OF-THE-FAULT"
  ngx.header["x-ms-request-id"] = "REQUEST-ID-OF-THE-FAULT"
  ngx.header["x-ms-error-code"] = d:get("code")
  local body = d:get("body") or ('<?xml version="1.0" encoding="UTF-8"?><Error><Code>' .. code ..
      "</Code><Message>" .. message .. "</Message></Error>")
  body = string.rep(body, number("times", 1))
  ngx.header["Content-Length"] = #body
  if ngx.req.get_method() ~= "HEAD" then ngx.print(body) end
  return ngx.exit(ngx.HTTP_OK)
elseif mode == "endless" then
  return ngx.exec("@endless")
elseif mode == "drop" then
  return ngx.exit(444)
elseif mode == "reset" then
  return ngx.exec("@reset")
elseif mode == "delay" then
  ngx.sleep(number("ms", 1000) / 1000)
elseif mode == "rate" then
  ngx.var.limit_rate = d:get("bps") or "1048576"
elseif mode == "stall" then
  ngx.var.limit_rate = 1  -- after the header
elseif mode == "norange" then
  ngx.req.clear_header("Range")
  ngx.req.clear_header("x-ms-range")
elseif mode == "shift" or mode == "toomany" then
  for _, name in ipairs({"Range", "x-ms-range"}) do
    local first_byte, last_byte = string.match(ngx.req.get_headers()[name] or "", "bytes=(%d+)-(%d+)")
    if first_byte then
      if mode == "shift" then
        ngx.req.set_header(name, string.format("bytes=%d-%d", first_byte + 1, last_byte + 1))
      else
        ngx.req.set_header(name, string.format("bytes=%d-%d", first_byte, last_byte + 1000))
        ngx.ctx.claim = string.format("bytes %d-%d/", first_byte, last_byte)
      end
    end
  end
  if mode == "shift" then ngx.ctx.mode = nil end
elseif mode == "circle" then
  local to = ngx.var.request_uri
  if d:get("onward") then
    to = string.gsub(to, "[?&]hop=%d+$", "")
    to = to .. (string.find(to, "?", 1, true) and "&" or "?") .. "hop=" .. n
  end
  ngx.status = number("status", 307)
  ngx.header["Location"] = to
  ngx.header["Content-Length"] = 0
  return ngx.exit(ngx.HTTP_OK)
elseif mode == "redirect" then
  return ngx.redirect((d:get("to") or "http://127.0.0.1") .. ngx.var.request_uri, 307)
end
ngx.ctx.mode = mode
ngx.ctx.bytes = number("bytes", 1000)
