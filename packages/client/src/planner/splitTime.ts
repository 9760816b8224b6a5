/**
 * How long a token and a prompt would take with layers split, and with tensors cut: arithmetic alone, over what was measured of
 * devices and links. It decides between the two; what it leaves out (attention, samplers) is the same for both.
 */

/** What there is to compute for a token. */
export interface SplitWork {
  /** Weights that are read, in bytes, and multiplications with them. */
  readonly weightBytes: number
  readonly multiplications: number
  readonly blockCount: number
  /** Of a hidden state, as it travels. */
  readonly hiddenBytes: number
}

export interface SplitDevice {
  /** Of a matrix with one row. */
  readonly weightBytesPerSecond: number
  /** Of a matrix with many rows. */
  readonly multiplicationsPerSecond: number
  readonly roundTripMs: number
  /** The slower direction of the way to its server. */
  readonly bytesPerSecond: number
  /** Of the weights, when layers are split, and when tensors are cut. */
  readonly layerShare: number
  readonly tensorShare: number
}

export interface SplitTime {
  readonly tokenMs: number
  /** Of `PROMPT_TOKENS`. */
  readonly promptMs: number
}

export interface SplitTimes {
  readonly layer: SplitTime
  readonly tensor: SplitTime
  /** Which of them takes less time for a prompt of 512 tokens and an answer of 128. */
  readonly faster: "layer" | "tensor"
}

export const PROMPT_TOKENS = 512
const ANSWER_TOKENS = 128
/** Sums of each block: after the attention, and after the feed-forward network. */
const SUMS_A_BLOCK = 2
/** What a sum costs besides the way: wake-ups of a server and of whom it waits for. */
const SUM_MS = 0.1
/** Cutting has to be so much faster before it is chosen: what was measured varies. */
const MARGIN = 1.1

/** `isLinked`: the servers exchange sums themselves; else they go through this process. */
export const splitTimes = (
  work: SplitWork,
  devices: ReadonlyArray<SplitDevice>,
  isLinked: boolean,
): SplitTimes => {
  const used = devices.filter(({ layerShare }) => layerShare > 0)
  const cut = devices.filter(({ tensorShare }) => tensorShare > 0)
  const rowBytes = work.hiddenBytes
  const computeMs = (device: SplitDevice, share: number, rows: number): number =>
    1000 *
    share *
    (rows === 1
      ? work.weightBytes / device.weightBytesPerSecond
      : Math.max(
          work.weightBytes / device.weightBytesPerSecond,
          (work.multiplications * rows) / device.multiplicationsPerSecond,
        ))
  const wayMs = ({ bytesPerSecond, roundTripMs }: SplitDevice, bytes: number): number =>
    roundTripMs + (1000 * bytes) / bytesPerSecond
  // One server after the other, each with a way there and back.
  const layerMs = (rows: number): number =>
    sumOf(
      used,
      (device) => computeMs(device, device.layerShare, rows) + wayMs(device, rows * rowBytes),
    )
  // All at once, and then they wait for the slowest way; through this process all of them share its own.
  const oneSumMs = (rows: number): number =>
    SUM_MS +
    (isLinked
      ? Math.max(...cut.map((device) => wayMs(device, (cut.length - 1) * rows * rowBytes)))
      : Math.max(...cut.map(({ roundTripMs }) => roundTripMs)) +
        sumOf(cut, ({ bytesPerSecond }) => (2000 * rows * rowBytes) / bytesPerSecond))
  const tensorMs = (rows: number): number =>
    Math.max(...cut.map((device) => computeMs(device, device.tensorShare, rows))) +
    SUMS_A_BLOCK * work.blockCount * oneSumMs(rows) +
    Math.max(...cut.map((device) => wayMs(device, rows * rowBytes)))
  const layer = { tokenMs: layerMs(1), promptMs: layerMs(PROMPT_TOKENS) }
  const tensor = { tokenMs: tensorMs(1), promptMs: tensorMs(PROMPT_TOKENS) }
  const wholeMs = ({ tokenMs, promptMs }: SplitTime): number => promptMs + ANSWER_TOKENS * tokenMs
  return {
    layer,
    tensor,
    faster: wholeMs(tensor) * MARGIN < wholeMs(layer) ? "tensor" : "layer",
  }
}

const sumOf = <A>(values: ReadonlyArray<A>, of: (value: A) => number): number =>
  values.reduce((sum, value) => sum + of(value), 0)
