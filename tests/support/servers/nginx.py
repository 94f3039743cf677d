"""nginx: static files, and proxies in front of other servers that fail on purpose."""

from __future__ import annotations

import os
import pathlib
import platform
import urllib.parse
import urllib.request

from . import debian
from .process import Server, free_port
from .tls import Certificate

HERE = pathlib.Path(__file__).resolve().parent


class Nginx(Server):
    """Serves `root` at `url` (and `tls_url`), and proxies to `upstreams` (name -> "host:port") at
    `proxy[name]` (and `tls_proxy[name]`). The proxies do to requests what `fault()` says.

    `host` is the address to listen on. `certificates` are served on ports of their own, too:
    `tls_named[name]`.
    """

    def __init__(
        self,
        root: pathlib.Path,
        upstreams: dict[str, str] | None = None,
        certificate: Certificate | None = None,
        certificates: dict[str, Certificate] | None = None,
        workers: int = 2,
        host: str = "127.0.0.1",
        prefix: list[str] | None = None,
        locations: str = "",
    ) -> None:
        super().__init__()
        self.root, self.host, self.workers = root, host, workers
        self.certificate, self.certificates = certificate, certificates or {}
        self.locations = locations  # of the static server, as nginx writes them
        self.command_prefix = prefix or []  # e.g. to run inside a network namespace
        self.port, self.tls_port = free_port(), free_port()
        self.control_port = free_port()
        self.upstreams = dict(upstreams or {})
        self.upstreams.setdefault("static", f"{host}:{self.port}")
        self.proxy_ports = {name: free_port() for name in self.upstreams}
        self.tls_proxy_ports = {name: free_port() for name in self.upstreams}
        self.named_ports = {name: free_port() for name in self.certificates}

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"https://{self.host}:{self.tls_port}"

    @property
    def proxy(self) -> dict[str, str]:
        return {name: f"http://{self.host}:{port}" for name, port in self.proxy_ports.items()}

    @property
    def tls_proxy(self) -> dict[str, str]:
        return {name: f"https://{self.host}:{port}" for name, port in self.tls_proxy_ports.items()}

    @property
    def tls_named(self) -> dict[str, str]:
        return {name: f"https://{self.host}:{port}" for name, port in self.named_ports.items()}

    def start(self) -> None:
        system = debian.unpack("nginx", "nginx", "libnginx-mod-http-lua")
        modules = system / "usr/lib/nginx/modules"
        if not (modules / "ngx_http_lua_module.so").exists():
            modules = next(system.rglob("ngx_http_lua_module.so")).parent
        (self.directory / "tmp").mkdir()
        (self.directory / "nginx.conf").write_text(self._config(system, modules))
        self.spawn(
            [
                *self.command_prefix,
                str(system / "usr/sbin/nginx"),
                *("-p", str(self.directory), "-c", str(self.directory / "nginx.conf")),
            ],
            env={"LD_LIBRARY_PATH": debian.library_path(system)},
        )
        if self.command_prefix:  # its address may be out of reach from here
            self.wait_until((self.directory / "nginx.pid").exists, "nginx")
        else:
            self.wait_for_port(self.control_port, "nginx", self.host)

    def fault(self, mode: str, **details: object) -> None:
        """Makes the proxies fail, from now on; see faults.lua for modes and details."""
        body = urllib.parse.urlencode({"mode": mode, **details}).encode()
        urllib.request.urlopen(f"http://{self.host}:{self.control_port}/set", body).read()

    def clear_faults(self) -> None:
        urllib.request.urlopen(f"http://{self.host}:{self.control_port}/clear").read()

    def fault_hits(self) -> int:
        """How many requests were failed since fault()."""
        url = f"http://{self.host}:{self.control_port}/hits"
        return int(urllib.request.urlopen(url).read())

    def access_log(self, name: str) -> list[str]:
        """Lines "METHOD URI|range|status|bytes|connection" of a proxy."""
        path = self.directory / f"{name}.log"
        return path.read_text().splitlines() if path.exists() else []

    def _config(self, system: pathlib.Path, modules: pathlib.Path) -> str:
        # Distribution packages put lua's libraries below share/lua or lib/TRIPLET/lua.
        lua = system / "usr/share/lua/5.1"
        certificate = ""
        if self.certificate:
            certificate = (
                f"ssl_certificate {self.certificate.chain};\n"
                f"  ssl_certificate_key {self.certificate.key};"
            )
        user = "user root;" if os.getuid() == 0 else ""
        listen = f"listen {self.host}:{self.port} backlog=1024;"
        servers = [f"server {{ {listen} {self.locations} }}"]
        if self.certificate:
            servers.append(f"server {{ listen {self.host}:{self.tls_port} ssl; }}")
        for name, extra in self.certificates.items():
            servers.append(
                f"server {{ listen {self.host}:{self.named_ports[name]} ssl;"
                f" ssl_certificate {extra.chain}; ssl_certificate_key {extra.key}; }}"
            )
        for name, upstream in self.upstreams.items():
            tls = ""
            if self.certificate:
                tls = f"listen {self.host}:{self.tls_proxy_ports[name]} ssl;"
            servers.append(f"""server {{
    listen {self.host}:{self.proxy_ports[name]}; {tls}
    access_log {self.directory}/{name}.log line;
    postpone_output 0;
    location @reset {{ reset_timedout_connection on; return 444; }}
    location @endless {{ content_by_lua_file {HERE}/faults_endless.lua; }}
    location / {{
      access_by_lua_file {HERE}/faults.lua;
      header_filter_by_lua_file {HERE}/faults_header.lua;
      body_filter_by_lua_file {HERE}/faults_body.lua;
      proxy_pass http://{upstream};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_buffers 16 64k;
      proxy_buffer_size 64k;
      proxy_busy_buffers_size 128k;
      proxy_max_temp_file_size 0;
      proxy_request_buffering off;
      proxy_redirect off;
      client_max_body_size 0;
    }}
  }}""")
        body = "\n  ".join(servers)
        return f"""load_module {modules}/ndk_http_module.so;
load_module {modules}/ngx_http_lua_module.so;
{user}
worker_processes {self.workers};
daemon off;
pid {self.directory}/nginx.pid;
error_log {self.directory}/error.log warn;
events {{ worker_connections 8192; }}
http {{
  lua_package_path "{lua}/?.lua;{lua}/?/init.lua;;";
  lua_package_cpath "{system}/usr/lib/{platform.machine()}-linux-gnu/lua/5.1/?.so;;";
  lua_shared_dict faults 1m;
  default_type application/octet-stream;
  access_log off;
  log_format line '$request_method $request_uri|$http_range|$status|$body_bytes_sent|$connection';
  client_body_temp_path {self.directory}/tmp;
  proxy_temp_path {self.directory}/tmp;
  fastcgi_temp_path {self.directory}/tmp;
  uwsgi_temp_path {self.directory}/tmp;
  scgi_temp_path {self.directory}/tmp;
  sendfile on;
  sendfile_max_chunk 1m;
  tcp_nopush on;
  keepalive_timeout 60s;
  keepalive_requests 1000000;
  open_file_cache max=1000;
  {certificate}
  ssl_session_cache shared:ssl:4m;
  root {self.root};
  autoindex on;
  autoindex_format json;
  {body}
  server {{
    listen {self.host}:{self.control_port};
    location = /set {{ content_by_lua_block {{
      local d = ngx.shared.faults
      d:flush_all()
      ngx.req.read_body()
      for k, v in pairs(ngx.req.get_post_args()) do d:set(k, v) end
      d:set("seen", 0)
      d:set("hits", 0)
      ngx.say("ok")
    }} }}
    location = /clear {{ content_by_lua_block {{ ngx.shared.faults:flush_all() ngx.say("ok") }} }}
    location = /hits {{ content_by_lua_block {{ ngx.say(ngx.shared.faults:get("hits") or 0) }} }}
  }}
}}
"""
