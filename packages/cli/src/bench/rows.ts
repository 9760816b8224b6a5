/** What came of a test, as a row of fields by llama-bench's names (llama.cpp v0.5.0, tools/llama-bench `get_fields`), and ours. */
import { cpus } from "node:os"
import type { Cluster, LinkSpeed, LinkTraffic } from "@ggml-rpc/client"
import { buildCommit } from "@ggml-rpc/native"
import { type BenchSetting, type BenchTest, nameOfTest, tokenCountOf } from "./cases.ts"
import type { Measured } from "./measure.ts"

/** llama.cpp's count of commits, which the prebuilt libraries do not know: they are built from one. */
const BUILD_NUMBER = 1

/** A link, as a test used it: a token, of all texts together. */
export interface LinkRow {
  readonly endpoint: string
  readonly sentBytes: number
  readonly receivedBytes: number
  readonly writes: number
  readonly waits: number
}

export interface BenchRow {
  readonly setting: BenchSetting
  readonly test: BenchTest
  readonly name: string
  /** Of a micro-batch, as computed. */
  readonly ubatchSize: number
  readonly model: { readonly type: string; readonly sizeBytes: number; readonly parameters: number }
  /** Kinds of devices that have layers, such as `RPC` or `CUDA,RPC`. */
  readonly backends: string
  /** All devices of the plan that have layers, servers by their addresses. */
  readonly devices: ReadonlyArray<string>
  /** What they are. */
  readonly descriptions: ReadonlyArray<string>
  readonly testTime: string
  readonly samplesNs: ReadonlyArray<number>
  readonly links: ReadonlyArray<LinkRow>
}

export const rowOf = (
  setting: BenchSetting,
  test: BenchTest,
  { info, plan }: Cluster.ClusterModel,
  { samplesMs, links }: Measured,
  devices: Cluster.Cluster["devices"],
): BenchRow => {
  const used = plan.devices.flatMap(({ name, unitCount }, index) =>
    unitCount > 0 ? [{ name, place: plan.places[index]! }] : [],
  )
  const kinds = used.map(({ name, place }) =>
    place === "local" ? name.replace(/\d+$/, "") : "RPC",
  )
  return {
    setting,
    test,
    name: nameOfTest(test),
    ubatchSize: plan.context.ubatchSize,
    model: {
      type: info.description,
      sizeBytes: info.sizeBytes,
      parameters: info.parameterCount,
    },
    backends: kinds.length === 0 ? "CPU" : [...new Set(kinds)].sort().join(","),
    devices: used.map(({ name, place }) => (place === "local" ? name : place)),
    descriptions: used.flatMap(
      ({ name }) => devices.find((device) => device.name === name)?.description ?? [],
    ),
    testTime: `${new Date().toISOString().slice(0, 19)}Z`,
    samplesNs: samplesMs.map((ms) => Math.round(ms * 1e6)),
    links: linkRows(links, tokenCountOf(test) * samplesMs.length),
  }
}

const linkRows = (links: ReadonlyArray<LinkTraffic>, tokenCount: number): ReadonlyArray<LinkRow> =>
  links.map(({ endpoint, sentBytes, receivedBytes, writeCount, waitCount }) => ({
    endpoint,
    sentBytes: sentBytes / tokenCount,
    receivedBytes: receivedBytes / tokenCount,
    writes: writeCount / tokenCount,
    waits: waitCount / tokenCount,
  }))

/** Mean, and the standard deviation of a sample, as llama-bench's. */
export const statisticsOf = (
  values: ReadonlyArray<number>,
): { readonly mean: number; readonly deviation: number } => {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  if (values.length < 2) return { mean, deviation: 0 }
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0)
  return { mean, deviation: Math.sqrt(squares / (values.length - 1)) }
}

/** Tokens a second of each repetition, of all texts together. */
export const ratesOf = ({ test, samplesNs }: BenchRow): ReadonlyArray<number> =>
  samplesNs.map((ns) => (tokenCountOf(test) * 1e9) / ns)

/** What llama-bench has a flag for and we have not, or not for `bench`: as it writes them without one. */
const unset = {
  cpu: { cpu_mask: "0x0", cpu_strict: false, poll: 50 },
  load: { tensor_buft_overrides: "none", load_mode: "auto", lazy_mode: "auto" },
  rest: { no_op_offload: 0, no_host: false, fit_target: 0, fit_min_ctx: 0 },
} as const

/**
 * The fields of a row that have one value, in the order of the columns of CSV: llama-bench's, in its order and all of them, so
 * that its scripts take them (scripts/compare-llama-bench.py of llama.cpp v0.5.0), and then ours.
 */
export const fieldsOf = (row: BenchRow): Readonly<Record<string, string | number | boolean>> => {
  const { setting, test, model } = row
  const time = statisticsOf(row.samplesNs)
  const rate = statisticsOf(ratesOf(row))
  const ofAll = (of: (link: LinkRow) => number): number =>
    row.links.reduce((sum, link) => sum + of(link), 0)
  return {
    build_commit: buildCommit(),
    build_number: BUILD_NUMBER,
    cpu_info: cpus()[0]?.model.trim() ?? "",
    gpu_info: row.descriptions.join(", "),
    backends: row.backends,
    model_filename: setting.path,
    model_type: model.type,
    model_size: model.sizeBytes,
    model_n_params: model.parameters,
    n_batch: setting.batchSize,
    n_ubatch: row.ubatchSize,
    n_threads: setting.threads,
    ...unset.cpu,
    type_k: setting.typeK,
    type_v: setting.typeV,
    n_gpu_layers: setting.gpuLayers,
    n_cpu_moe: 0,
    split_mode: setting.splitMode,
    main_gpu: 0,
    no_kv_offload: false,
    flash_attn: { off: 0, on: 1, auto: -1 }[setting.flashAttention],
    devices: row.devices.join("/"),
    tensor_split: (setting.tensorSplit ?? [0]).map((share) => share.toFixed(2)).join("/"),
    ...unset.load,
    embeddings: false,
    ...unset.rest,
    n_prompt: test.promptCount,
    n_gen: test.textCount,
    n_depth: test.depth,
    test_time: row.testTime,
    avg_ns: Math.round(time.mean),
    stddev_ns: Math.round(time.deviation),
    avg_ts: rate.mean,
    stddev_ts: rate.deviation,
    n_parallel: test.parallel,
    wire: setting.wire,
    sent_bytes_per_token: ofAll(({ sentBytes }) => sentBytes),
    received_bytes_per_token: ofAll(({ receivedBytes }) => receivedBytes),
    writes_per_token: ofAll(({ writes }) => writes),
    waits_per_token: ofAll(({ waits }) => waits),
  }
}

export interface LinkJson {
  readonly endpoint: string
  readonly round_trip_ms: number | null
  readonly upload_bytes_per_second: number | null
  readonly download_bytes_per_second: number | null
  readonly sent_bytes_per_token: number
  readonly received_bytes_per_token: number
  readonly writes_per_token: number
  readonly waits_per_token: number
}

/** All of a row, its lists too. */
export const jsonOf = (row: BenchRow, speeds: ReadonlyArray<LinkSpeed>) => ({
  ...fieldsOf(row),
  samples_ns: row.samplesNs,
  samples_ts: ratesOf(row),
  links: row.links.map((link): LinkJson => {
    const speed = speeds.find(({ endpoint }) => endpoint === link.endpoint)
    return {
      endpoint: link.endpoint,
      round_trip_ms: speed?.roundTripMs ?? null,
      upload_bytes_per_second: speed?.uploadBytesPerSecond ?? null,
      download_bytes_per_second: speed?.downloadBytesPerSecond ?? null,
      sent_bytes_per_token: link.sentBytes,
      received_bytes_per_token: link.receivedBytes,
      writes_per_token: link.writes,
      waits_per_token: link.waits,
    }
  }),
})
