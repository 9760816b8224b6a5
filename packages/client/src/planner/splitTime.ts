/**
 * How long a token and a prompt would take with layers split, and with tensors cut: arithmetic alone, over what was measured of
 * devices and links. It decides between the two; what it leaves out (attention, samplers) is the same for both.
 */

/** What there is to compute for a token. */
export interface SplitWork {
  /** Weights that are read, in bytes. */
  readonly weightBytes: number
  /** Multiplications with those of the blocks: of a prompt the output layer computes one token. */
  readonly multiplications: number
  /** A part of which is chosen anew for each token: such graphs have devices of one server wait for each other. */
  readonly hasExperts: boolean
  readonly blockCount: number
  /** Values of a hidden state. */
  readonly embeddingLength: number
}

/** How fast a device computes. */
export interface DeviceRates {
  /** Of a matrix with one row. */
  readonly weightBytesPerSecond: number
  /** Of a matrix with many rows. */
  readonly multiplicationsPerSecond: number
}

export interface SplitDevice extends DeviceRates {
  /** Its server. */
  readonly place: string
  /** It computes while others of its server do, where tensors are cut and no experts are chosen; else one after the other. */
  readonly isAtOnce: boolean
  readonly roundTripMs: number
  /** The slower direction of the way to its server. */
  readonly bytesPerSecond: number
  /** Of the weights and of the blocks, when layers are split, and of the weights when tensors are cut. */
  readonly layerShare: number
  readonly blockShare: number
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

export interface SplitWays {
  /** The servers exchange sums themselves; else they go through this process. */
  readonly isLinked: boolean
  /** Tokens of a prompt that go over the servers at once, where layers are split. */
  readonly ubatchSize: number
  /** Hidden states and partial sums travel as bf16; else as floats. */
  readonly isBf16: boolean
}

export const PROMPT_TOKENS = 512
const ANSWER_TOKENS = 128
const VALUE_BYTES = 4
/** Sums of each block: after the attention, and after the feed-forward network. */
const SUMS_A_BLOCK = 2
/** What a token takes besides, whatever the split: this process's graph, and samplers. */
const TOKEN_MS = 0.5
/** What a sum costs besides the way: wake-ups of a server and of whom it waits for. */
const SUM_MS = 0.05
/** Of more than two servers larger parts go over the links in two steps (shim/io/all_reduce.cpp). */
const ONE_STEP_BYTES = 128 * 1024
/** So much of a server's part is added up at a time: there, and in this process (devices/ClientSums.ts). */
const LINKED_PIECE_BYTES = 1024 * 1024
const CLIENT_PIECE_BYTES = 4 * 1024 * 1024
/** Something has to be so much faster before it is chosen: what was measured varies. */
const MARGIN = 1.1

/** Whether one way takes enough less time than another to be better, whatever varies. */
export const isFaster = (one: SplitTime, other: SplitTime): boolean =>
  wholeMs(one) * MARGIN < wholeMs(other)

/** A prompt of 512 tokens and an answer of 128. */
export const wholeMs = ({ tokenMs, promptMs }: SplitTime): number =>
  promptMs + ANSWER_TOKENS * tokenMs

const computeMs = (work: SplitWork, rates: DeviceRates, rows: number): number =>
  1000 *
  Math.max(
    work.weightBytes / rates.weightBytesPerSecond,
    rows === 1 ? 0 : (work.multiplications * rows) / rates.multiplicationsPerSecond,
  )

/** How fast a device would be alone, for what two ways are compared by; of no unit. */
export const speedOf = (work: SplitWork, rates: DeviceRates): number =>
  1 /
  wholeMs({
    tokenMs: computeMs(work, rates, 1),
    promptMs: computeMs(work, rates, PROMPT_TOKENS),
  })

export const splitTimes = (
  work: SplitWork,
  devices: ReadonlyArray<SplitDevice>,
  { isBf16, isLinked, ubatchSize }: SplitWays,
): SplitTimes => {
  const used = devices.filter(({ layerShare }) => layerShare > 0)
  const cut = devices.filter(({ tensorShare }) => tensorShare > 0)
  const rowBytes = work.embeddingLength * VALUE_BYTES
  // Sizes are those of floats, of which half may travel.
  const moveMs = ({ bytesPerSecond }: SplitDevice, bytes: number): number =>
    ((isBf16 ? 500 : 1000) * bytes) / bytesPerSecond
  const wayMs = (device: SplitDevice, rows: number): number =>
    device.roundTripMs + moveMs(device, rows * rowBytes)
  // A micro-batch goes over one server after the other, with a way there and back, and the next one follows on its heels.
  const layerMs = (rows: number): number => {
    const steps = Math.ceil(rows / ubatchSize)
    const share = (device: SplitDevice): number =>
      rows === 1 ? device.layerShare : device.blockShare
    const stages = eachServer(
      used,
      (device) => (computeMs(work, device, rows) * share(device)) / steps,
    )
    const slowest = Math.max(
      ...stages,
      ...used.map((each) => moveMs(each, (rows * rowBytes) / steps)),
    )
    return (
      sumOf(stages, (ms) => ms) +
      sumOf(used, (device) => wayMs(device, rows / steps)) +
      (steps - 1) * slowest
    )
  }
  // All at once, and then they wait for the slowest way; through this process all of them share its own. A server adds up its
  // devices' parts first; of unlike servers one may send several values all the same, which is not counted.
  const serverCount = new Set(cut.map(({ place }) => place)).size
  const linkedSumMs = (bytes: number): number => {
    const others = serverCount - 1
    if (others === 0) return 0
    const isShared = others > 1 && bytes > ONE_STEP_BYTES
    const own = isShared ? bytes / serverCount : bytes
    const waitCount = (isShared ? 2 : 1) * Math.ceil(own / LINKED_PIECE_BYTES)
    const sentBytes = (isShared ? 2 : 1) * others * own
    return Math.max(
      ...cut.map((device) => (waitCount * device.roundTripMs) / 2 + moveMs(device, sentBytes)),
    )
  }
  const clientSumMs = (bytes: number): number =>
    Math.ceil(bytes / CLIENT_PIECE_BYTES) * Math.max(...cut.map(({ roundTripMs }) => roundTripMs)) +
    sumOf(cut, (device) => moveMs(device, 2 * bytes))
  const tensorMs = (rows: number): number =>
    Math.max(
      ...eachServer(
        cut,
        (device) => computeMs(work, device, rows) * device.tensorShare,
        (device) => device.isAtOnce && !work.hasExperts,
      ),
    ) +
    SUMS_A_BLOCK *
      work.blockCount *
      (SUM_MS + (isLinked ? linkedSumMs : clientSumMs)(rows * rowBytes)) +
    Math.max(...cut.map((device) => wayMs(device, rows)))
  const layer = { tokenMs: TOKEN_MS + layerMs(1), promptMs: layerMs(PROMPT_TOKENS) }
  const tensor = { tokenMs: TOKEN_MS + tensorMs(1), promptMs: tensorMs(PROMPT_TOKENS) }
  return { layer, tensor, faster: isFaster(tensor, layer) ? "tensor" : "layer" }
}

/** Of each server what its devices take one after the other, or the longest where all compute at once. */
const eachServer = (
  devices: ReadonlyArray<SplitDevice>,
  of: (device: SplitDevice) => number,
  isAtOnce: (device: SplitDevice) => boolean = () => false,
): ReadonlyArray<number> =>
  [...Map.groupBy(devices, ({ place }) => place).values()].map((own) =>
    own.every(isAtOnce) ? Math.max(...own.map(of)) : sumOf(own, of),
  )

const sumOf = <A>(values: ReadonlyArray<A>, of: (value: A) => number): number =>
  values.reduce((sum, value) => sum + of(value), 0)
