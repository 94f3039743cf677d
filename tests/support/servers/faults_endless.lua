-- The response of faults.lua whose body does not end. It passes no filter: after a pause within its
-- body, a filter's limits would hold for it.
ngx.status = tonumber(ngx.shared.faults:get("status")) or 403
local block = string.rep("x", 65536)
for _ = 1, 16384 do
  if not ngx.print(block) or not ngx.flush(true) then break end
end
