-- Cuts or changes bodies of answers as faults.lua decided.
if ngx.ctx.mode == "damaged" and ngx.arg[1] ~= "" then  -- the last bit of each piece
  local piece = ngx.arg[1]
  ngx.arg[1] = string.sub(piece, 1, -2) .. string.char(bit.bxor(string.byte(piece, -1), 1))
end
if ngx.ctx.mode ~= "truncate" then return end
local chunk = ngx.arg[1]
local limit = ngx.ctx.bytes
local position = ngx.ctx.position or 0
ngx.ctx.position = position + #chunk
if ngx.ctx.position > limit then
  if position >= limit then return ngx.ERROR end
  ngx.arg[1] = string.sub(chunk, 1, limit - position)
end
