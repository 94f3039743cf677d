-- Changes headers of answers as faults.lua decided.
local mode = ngx.ctx.mode
if mode == "toomany" and ngx.ctx.claim then
  local total = string.match(ngx.header["Content-Range"] or "", "/(%d+)$")
  if total then
    ngx.header["Content-Range"] = ngx.ctx.claim .. total
    ngx.header["Content-Length"] = nil
  end
elseif mode == "norangeheader" then
  ngx.header["Content-Range"] = nil
elseif mode == "coded" then
  ngx.header["Content-Encoding"] = "gzip"
elseif mode == "replaced" then
  ngx.header["ETag"] = '"another"'
  ngx.header["Last-Modified"] = "Sat, 01 Jan 2000 00:00:00 GMT"
  if ngx.header["x-goog-generation"] then ngx.header["x-goog-generation"] = "1" end
elseif mode == "longheader" then
  for number = 1, 300 do ngx.header["x-padding-" .. number] = string.rep("x", 1000) end
elseif mode == "nosize" then
  local range = ngx.header["Content-Range"]
  if range then ngx.header["Content-Range"] = string.gsub(range, "/%d+$", "/*") end
end
