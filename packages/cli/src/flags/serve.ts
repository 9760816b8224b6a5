/** What a server offers. Names are those of llama.cpp's rpc-server (v0.5.0, tools/rpc/rpc-server.cpp) where it has them. */
import { flag, toggle } from "./Flag.ts"
import { choice, integer, names, nonEmpty, number, path, size } from "./kinds.ts"

export const serveFlags = {
  host: flag({
    name: "host",
    aliases: ["-H"],
    kind: nonEmpty("HOST"),
    about: "address to listen on; 0.0.0.0 or :: for all",
    unset: "127.0.0.1",
    group: "Network",
  }),
  port: flag({
    name: "port",
    aliases: ["-p"],
    kind: integer({ min: 0, max: 65535 }),
    about: "port to listen on; 0 picks a free one",
    unset: "50052",
    group: "Network",
  }),
  allow: flag({
    name: "allow",
    kind: names("CIDR,…", /,/),
    about: "whose connections are taken, such as 192.168.1.0/24,fd00::/8",
    unset: "private networks; 0.0.0.0/0,::/0 for all",
    group: "Network",
  }),
  tokenFile: flag({
    name: "token-file",
    kind: path,
    about: "serve only clients with the secret in this file; those of llama.cpp have none",
    group: "Network",
  }),
  tls: flag({
    name: "tls",
    rivals: "certificate",
    kind: choice(["self"]),
    about:
      "'self': encrypt, with a certificate that is made once and kept; its fingerprint is printed, for --tls-fingerprint of clients",
    group: "Network",
  }),
  tlsCert: flag({
    name: "tls-cert",
    rivals: "certificate",
    kind: path,
    about: "encrypt, with this certificate (PEM)",
    group: "Network",
  }),
  tlsKey: flag({
    name: "tls-key",
    rivals: "certificate",
    kind: path,
    about: "its key (PEM)",
    group: "Network",
  }),
  protocol: flag({
    name: "protocol",
    kind: nonEmpty("X.Y"),
    about: "speak this version of the protocol only",
    unset: "auto, what suits each client",
    group: "Network",
  }),
  listen: flag({
    name: "listen",
    kind: names("PORT=X.Y,…"),
    about: "more ports, each for one version of the protocol; port 0 picks a free one",
    group: "Network",
  }),
  maxClients: flag({
    name: "max-clients",
    aliases: ["--max-sessions"],
    kind: integer({ min: 1, max: 4096 }),
    about: "clients served at the same time; more are turned away",
    unset: "64",
    group: "Network",
  }),
  maxComputeSeconds: flag({
    name: "max-compute-seconds",
    kind: number({ min: 0.1 }),
    about:
      "end the session of a client whose graph runs longer; sums are not counted, and several devices do not compute at once then",
    unset: "never",
    group: "Network",
  }),
  idleTimeout: flag({
    name: "idle-timeout",
    kind: number({ min: 0.1 }),
    about: "end the session of a client that is silent for so many seconds",
    unset: "never",
    group: "Network",
  }),
  maxGraphNodes: flag({
    name: "max-graph-nodes",
    kind: integer({ min: 1 }),
    about: "refuse graphs of more nodes",
    unset: "1048576",
    group: "Network",
  }),
  noAddressLimits: toggle({
    name: "no-address-limits",
    about:
      "do not slow down an address whose clients start many sessions or send bad requests, as where it is a proxy's",
    group: "Network",
  }),
  peers: flag({
    name: "peers",
    kind: names("CIDR,…", /,/),
    about:
      "other servers of ggml-rpc that this one may connect to, to add up partial results where a client splits tensors; none: no such links",
    unset: "for its own machine's clients that machine, for all the private networks of --allow",
    group: "Network",
  }),
  spin: flag({
    name: "spin",
    kind: integer({ min: 0, max: 10_000 }),
    about:
      "microseconds that a session stays awake for another server's partial result, as long as that helps and nobody else wants the processor",
    unset: "50",
    group: "Network",
  }),
  allowComm: toggle({
    name: "allow-comm",
    about:
      "link with another server where a client asks (llama.cpp's -sm tensor): listens beside the client's connection, or dials whom it names",
    group: "Network",
  }),
  noSandbox: toggle({
    name: "no-sandbox",
    about:
      "let session processes keep programs, files and sockets, for a debugger; by default they give up what serving a client does not take",
    group: "Network",
  }),
  device: flag({
    name: "device",
    aliases: ["-d", "-dev"],
    kind: names("NAME,…"),
    about: "devices to serve",
    unset: "every accelerator, or the CPU when there is none",
    group: "Devices",
  }),
  threads: flag({
    name: "threads",
    aliases: ["-t"],
    kind: integer({ min: 1, max: 512 }),
    about: "threads of the CPU device",
    unset: "half of the cores",
    group: "Devices",
  }),
  memLimit: flag({
    name: "mem-limit",
    kind: size,
    about: "memory that clients may have, all together",
    unset: "what is free",
    group: "Devices",
  }),
  clientMemLimit: flag({
    name: "client-mem-limit",
    kind: size,
    about: "memory that each client may have",
    unset: "what is free",
    group: "Devices",
  }),
  cache: toggle({
    name: "cache",
    aliases: ["-c"],
    about: "keep weights on disk, so that the next upload need not cross the network",
    group: "Cache",
  }),
  models: flag({
    name: "models",
    kind: names("DIR,…", /,/),
    about:
      "give clients the weights of GGUF files there, which then cross no network; they are only read",
    unset: "none",
    group: "Cache",
  }),
  noRepack: toggle({
    name: "no-repack",
    aliases: ["-nr"],
    about:
      "leave weights as clients send them: slower on a CPU, but with the very results of llama.cpp's server",
    group: "Devices",
  }),
  warmup: toggle({
    name: "warmup",
    negations: ["--no-warmup"],
    default: "on",
    about:
      "whether session processes compute for themselves while nobody wants them (default: they do): it costs 0.1 to 0.3 s of a core for each client that comes later, and spares its first tokens the wait",
    group: "Devices",
  }),
  allowTraining: toggle({
    name: "allow-training",
    about: "run operations that only training uses: gradients, losses, optimizers",
    group: "Devices",
  }),
  cacheSize: flag({
    name: "cache-size",
    kind: size,
    about: "how large the cache may get; least recently used weights go",
    unset: "a tenth of the free disk",
    group: "Cache",
  }),
  metrics: flag({
    name: "metrics",
    kind: nonEmpty("[HOST:]PORT"),
    about:
      "serve /metrics (Prometheus) and /healthz by HTTP there; a port alone is for this machine",
    group: "Log",
  }),
  logFormat: flag({
    name: "log-format",
    kind: choice(["pretty", "json"]),
    about: "how the log on stderr looks: for people, or a JSON object a line",
    default: "pretty",
    group: "Log",
  }),
  logLevel: flag({
    name: "log-level",
    kind: choice(["debug", "info", "warning", "error"]),
    about: "least level of what is logged: debug, info, warning or error",
    unset: "info",
    group: "Log",
  }),
}
