/** What `GET /cluster` tells; the page reads the same type. Sizes are in bytes. */
import * as Schema from "effect/Schema"

/** What a device has of the model, and what its memory holds. */
const Device = Schema.Struct({
  /** `RPC0`, `CUDA0`; `CPU` is that of the host that runs this server. */
  name: Schema.String,
  /** Of its server; null: it is in the host that runs this one. */
  endpoint: Schema.NullOr(Schema.String),
  /** Of the model's layers, which are numbered from 0; `layer_count` 0: it has none. */
  first_layer: Schema.Int,
  layer_count: Schema.Int,
  /** Computes the input embedding. */
  has_input: Schema.Boolean,
  /** Computes the logits. */
  has_output: Schema.Boolean,
  weight_bytes: Schema.Number,
  context_bytes: Schema.Number,
  compute_bytes: Schema.Number,
  /** Now. */
  free_bytes: Schema.Number,
  total_bytes: Schema.Number,
  /** Devices with the same text draw from one memory. */
  memory: Schema.optional(Schema.String),
})

const Server = Schema.Struct({
  endpoint: Schema.String,
  /** Whose it is. */
  kind: Schema.String,
  /** Of the protocol. */
  version: Schema.String,
  warning: Schema.optional(Schema.String),
  /** Since the cluster was opened, but for some headers. */
  sent_bytes: Schema.Number,
  received_bytes: Schema.Number,
})

const Host = Schema.Struct({
  /** Name or address; null: the one that runs this server. */
  name: Schema.NullOr(Schema.String),
  servers: Schema.Array(Server),
  devices: Schema.Array(Device),
})

export const ClusterReport = Schema.Struct({
  model: Schema.Struct({
    name: Schema.String,
    architecture: Schema.String,
    size_bytes: Schema.Number,
    /** Without the output layer. */
    layer_count: Schema.Int,
    /** Tokens. */
    context_size: Schema.Int,
  }),
  /** In the order of the split, this server's own last. */
  hosts: Schema.Array(Host),
  /** When memory and links were looked at, on a clock of this server's; two reports can have the same look. */
  looked_at_ms: Schema.Number,
  /** How the weights came to the servers. */
  load: Schema.Struct({
    ms: Schema.Number,
    sent_bytes: Schema.Number,
    /** What servers had in their caches. */
    cached_bytes: Schema.Number,
  }),
  slots: Schema.Array(
    Schema.Struct({
      id: Schema.Int,
      state: Schema.Literal("idle", "prompt", "generating"),
      /** In its cache. */
      token_count: Schema.Int,
    }),
  ),
  /** Requests that wait for a slot. */
  queued_count: Schema.Int,
  /** Tokens of all answers since the start, as they come. */
  generated_token_count: Schema.Int,
}).annotations({ identifier: "ClusterReport" })

export type ClusterReport = typeof ClusterReport.Type
export type ReportedServer = typeof Server.Type
export type ReportedHost = typeof Host.Type
export type ReportedDevice = typeof Device.Type
export type ReportedSlot = ClusterReport["slots"][number]
