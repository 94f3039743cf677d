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
elseif mode == "nosize" then
  local range = ngx.header["Content-Range"]
  if range then ngx.header["Content-Range"] = string.gsub(range, "/%d+$", "/*") end
end
