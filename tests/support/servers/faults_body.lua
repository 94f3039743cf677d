-- Cuts bodies of answers as faults.lua decided.
if ngx.ctx.mode ~= "truncate" then return end
local chunk = ngx.arg[1]
local limit = ngx.ctx.bytes
local position = ngx.ctx.position or 0
ngx.ctx.position = position + #chunk
if ngx.ctx.position > limit then
  if position >= limit then return ngx.ERROR end
  ngx.arg[1] = string.sub(chunk, 1, limit - position)
end
