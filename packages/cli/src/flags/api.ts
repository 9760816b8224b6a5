/** The HTTP API: llama-server's flags (llama.cpp v0.5.0, common/arg.cpp) where it has them. */
import { pooling } from "./embed.ts"
import { flag, toggle } from "./Flag.ts"
import { integer, names, nonEmpty, number, path, size } from "./kinds.ts"

const http = "HTTP"
const access = "Who may ask"
const serving = "Serving"

const MAX_SLOTS = 256

export const httpFlags = {
  host: flag({
    name: "host",
    env: "LLAMA_ARG_HOST",
    kind: nonEmpty("HOST"),
    about: "address to listen on; 0.0.0.0 or :: for all",
    default: "127.0.0.1",
    group: http,
  }),
  port: flag({
    name: "port",
    env: "LLAMA_ARG_PORT",
    kind: integer({ min: 0, max: 65_535 }),
    about: "port to listen on; 0 picks a free one",
    default: "8080",
    group: http,
  }),
  sslKeyFile: flag({
    name: "ssl-key-file",
    env: "LLAMA_ARG_SSL_KEY_FILE",
    kind: path,
    about: "answer by HTTPS, with this key (PEM)",
    group: http,
  }),
  sslCertFile: flag({
    name: "ssl-cert-file",
    env: "LLAMA_ARG_SSL_CERT_FILE",
    kind: path,
    about: "its certificate (PEM)",
    group: http,
  }),
  httpTimeout: flag({
    name: "http-timeout",
    kind: number({ min: 1, max: 86_400 }),
    about: "seconds that a client may leave an answer unread",
    default: "3600",
    group: http,
  }),
  ssePingInterval: flag({
    name: "sse-ping-interval",
    env: "LLAMA_ARG_SSE_PING_INTERVAL",
    kind: integer({ min: -1, max: 86_400 }),
    about: "seconds of silence after which a stream gets a comment; -1: none",
    default: "30",
    group: http,
  }),
  maxRequestSize: flag({
    name: "max-request-size",
    kind: size,
    about: "largest request that is taken",
    default: "64M",
    group: http,
  }),
}

export const keyFlags = {
  apiKey: flag({
    name: "api-key",
    env: "LLAMA_API_KEY",
    kind: names("KEY,…", /,/),
    about: "keys of which a request must have one",
    unset: "requests need none",
    group: access,
  }),
  apiKeyFile: flag({
    name: "api-key-file",
    env: "LLAMA_ARG_API_KEY_FILE",
    kind: path,
    about: "file of such keys, one a line; lines with # are comments",
    group: access,
  }),
  corsOrigins: flag({
    name: "cors-origins",
    env: "LLAMA_ARG_CORS_ORIGINS",
    kind: names("ORIGIN,…", /,/),
    about: "web pages that may ask, such as https://chat.example; '*' for all",
    unset: "those of this server alone",
    group: access,
  }),
}

export const servingFlags = {
  parallel: flag({
    name: "parallel",
    aliases: ["-np"],
    env: "LLAMA_ARG_N_PARALLEL",
    kind: integer({ min: 1, max: MAX_SLOTS }),
    about: "texts that are computed at once; they share the context's tokens",
    default: "4",
    group: serving,
  }),
  groups: flag({
    name: "groups",
    kind: integer({ min: 1, max: MAX_SLOTS }),
    about:
      "contexts that these texts are spread over, so that several servers compute at once; each takes a cache of --ctx-size tokens",
    unset: "one for each server with layers, as far as memory allows",
    group: serving,
  }),
  maxQueue: flag({
    name: "max-queue",
    kind: integer({ min: 0, max: 1_000_000 }),
    about: "requests that may wait for one of these; others are told to come back (429)",
    default: "128",
    group: serving,
  }),
  alias: flag({
    name: "alias",
    aliases: ["-a"],
    env: "LLAMA_ARG_ALIAS",
    kind: nonEmpty("NAME"),
    about: "name of the model in answers",
    unset: "that of its file or repository",
    group: serving,
  }),
  embeddings: toggle({
    name: "embeddings",
    aliases: ["--embedding"],
    env: "LLAMA_ARG_EMBEDDINGS",
    about: "give embeddings, and no texts",
    group: serving,
  }),
  reranking: toggle({
    name: "reranking",
    aliases: ["--rerank"],
    env: "LLAMA_ARG_RERANKING",
    about: "rank documents by a query, and give no texts",
    group: serving,
  }),
  pooling: { ...pooling, group: serving },
  webui: toggle({
    name: "webui",
    aliases: ["--ui"],
    negations: ["--no-webui", "--no-ui"],
    env: "LLAMA_ARG_UI",
    default: "on",
    about: "the page at / with a chat and the cluster (default: there is one)",
    group: serving,
  }),
  slots: toggle({
    name: "slots",
    negations: ["--no-slots"],
    env: "LLAMA_ARG_ENDPOINT_SLOTS",
    default: "on",
    about: "whether GET /slots tells what is computed (default: it does)",
    group: serving,
  }),
  metrics: toggle({
    name: "metrics",
    env: "LLAMA_ARG_ENDPOINT_METRICS",
    about: "GET /metrics, for Prometheus",
    group: serving,
  }),
  slotSavePath: flag({
    name: "slot-save-path",
    kind: path,
    about: "folder in which POST /slots/N?action=save keeps what a slot has computed",
    group: serving,
  }),
}

export const apiServerFlags = { ...httpFlags, ...keyFlags, ...servingFlags }
