/** The two implementations that are compared, as processes with the same job. */
import { dirname, join, relative } from "node:path"
import { workerBundleName } from "@ggml-rpc/native/worker"
import { ensurePeers } from "../peers/peers.ts"
import { type ServerProcess, startProcess, startServer, waitUntil } from "../peers/process.ts"
import { ggmlRpc } from "../servers.ts"
import { groupCpuSeconds, type MemoryPeaks, peaksOf, watchMemory } from "./processGroup.ts"

/** "before": another checkout of ours, as `--before` names it. */
export type Side = "upstream" | "ours" | "before"

/** Which client ran on which server. */
export interface Pairing {
  readonly client: Side
  readonly server: Side
}

export const pairings = {
  upstream: { client: "upstream", server: "upstream" },
  before: { client: "before", server: "before" },
  ours: { client: "ours", server: "ours" },
  "ours on upstream's server": { client: "ours", server: "upstream" },
  "upstream on our server": { client: "upstream", server: "ours" },
} as const satisfies Record<string, Pairing>

export type PairingName = keyof typeof pairings

export interface ServerSetup {
  readonly side: Side
  /** Put before every command, such as `["taskset", "-c", "1"]`. */
  readonly prefix: readonly string[]
  /** Folder of the server's cache; undefined: none. */
  readonly cacheDir?: string | undefined
  /** More flags, of one of ours. */
  readonly flags?: readonly string[]
}

/** A server with one thread, and every other option left at its default. */
export const startBenchServer = async (setup: ServerSetup): Promise<ServerProcess> => {
  const program = await serverProgram(setup.side)
  const cache = setup.cacheDir === undefined ? [] : ["-c"]
  return startServer(
    (port) => [
      ...[...setup.prefix, ...program, "-p", String(port), "-t", "1", ...cache],
      ...(setup.flags ?? []),
    ],
    { env: { LLAMA_CACHE: setup.cacheDir } },
  )
}

const serverProgram = async (side: Side): Promise<readonly string[]> =>
  side === "upstream"
    ? [(await ensurePeers(["rpc-server"]))["rpc-server"]]
    : [...commandOf(side), "serve"]

const root = join(import.meta.dir, "..", "..")
let checkoutBefore = root

/** Where the side "before" runs from: a checkout that is set up. */
export const setCheckoutBefore = (folder: string): void => {
  checkoutBefore = folder
}

/** A file of this checkout in the one of a side. */
const fileOf = (side: Exclude<Side, "upstream">, path: string): string =>
  side === "ours" ? path : join(checkoutBefore, relative(root, path))

/** The `ggml-rpc` command of a side. */
export const commandOf = (side: Exclude<Side, "upstream">): readonly string[] =>
  ggmlRpc.map((word) => (word.startsWith(root) ? fileOf(side, word) : word))

export interface ClientJob {
  readonly modelPath: string
  readonly prompt: readonly number[]
  /** Tokens to generate after the prompt. */
  readonly generate: number
  /** Prompt and generation, so often in one process. */
  readonly repeat: number
  readonly ubatchSize: number
  readonly contextSize: number
  /** See `Workload.inTurns`. */
  readonly inTurns: boolean
}

/** What one client process did; the times of `runs` are its own. */
export interface ClientResult {
  /** From the start of the process to the model ready to compute. */
  readonly startToReadyMs: number
  /** The calls that make model and context from the file, connected to the servers. */
  readonly loadCallMs: number
  /** From the start of the process to its end. */
  readonly wallMs: number
  readonly runs: ReadonlyArray<{
    readonly tokens: readonly number[]
    readonly promptMs: number
    /** Per generated token after the first, which comes out of the prompt. */
    readonly tokenMs: number
  }>
  readonly clientCpuSeconds: number
  readonly serverCpuSeconds: number
  /** Only where asked for. */
  readonly memory?: {
    readonly client: MemoryPeaks
    readonly server: MemoryPeaks
    /** Until the model was ready. */
    readonly serverLoading: MemoryPeaks
  }
  /** Only from our client: bytes on the servers and on the client's host, as planned by ggml. */
  readonly breakdown?: Breakdown
}

export interface DeviceBytes {
  readonly weightBytes: number
  readonly contextBytes: number
  readonly computeBytes: number
}

export interface Breakdown {
  readonly devices: readonly DeviceBytes[]
  readonly host: DeviceBytes
}

export interface ClientSetup {
  readonly side: Side
  readonly prefix: readonly string[]
  readonly watchMemory: boolean
  /** See `RunningClient.takeTurn`. */
  readonly inTurns: boolean
}

/** A client that has started. */
export interface RunningClient extends AsyncDisposable {
  /**
   * One that works in turns (`ClientSetup.inTurns`) waits before each repetition of its job: this resolves when it
   * first does so, or has ended.
   */
  readonly isReady: Promise<void>
  /** Lets it do the next repetition and resolves when that is done; after the last one it ends. */
  readonly takeTurn: () => Promise<void>
  /** Waits for its end. @throws {Error} with what it printed, when it failed */
  readonly result: () => Promise<ClientResult>
}

/** Starts a client on servers that wait for it. */
export const startClient = async (
  setup: ClientSetup,
  servers: readonly ServerProcess[],
  job: ClientJob,
): Promise<RunningClient> => {
  const program = await clientProgram(setup.side)
  const groups = servers.map((server) => server.pid)
  const serverCpuBefore = groupCpuSeconds(groups)
  const turns = turnsOf()
  const startedEpochMs = Date.now()
  const started = performance.now()
  const client = startProcess(
    [
      ...[...setup.prefix, ...program, ...clientArguments(servers, job)],
      ...(setup.inTurns ? ["--turns"] : []),
    ],
    setup.inTurns ? { stdin: { from: "write" }, onStderr: turns.read } : {},
  )
  const watch = setup.watchMemory
    ? { client: watchMemory([client.pid]), server: watchMemory(groups) }
    : undefined
  const ended = client.exited.then((exitCode) => {
    turns.end()
    return { exitCode, wallMs: performance.now() - started }
  })

  const result = async (): Promise<ClientResult> => {
    const { exitCode, wallMs } = await ended
    const samples = watch && {
      client: await watch.client.stop(),
      server: await watch.server.stop(),
    }
    if (exitCode !== 0) {
      throw new Error(
        `the ${setup.side} client ended with exit code ${exitCode}:\n${client.stderr().slice(-4000)}`,
      )
    }
    await quiet(groups)
    const printed = JSON.parse(client.stdout()) as PrintedResult
    return {
      startToReadyMs: printed.readyEpochMs - startedEpochMs,
      loadCallMs: printed.loadMs + (printed.contextMs ?? 0),
      wallMs,
      runs: printed.runs.map((run) => ({
        tokens: run.tokens,
        promptMs: run.promptMs,
        tokenMs: generationMs(run) / Math.max(1, run.tokens.length - 1),
      })),
      clientCpuSeconds: client.cpuSeconds() ?? 0,
      serverCpuSeconds: groupCpuSeconds(groups) - serverCpuBefore,
      ...(samples === undefined
        ? {}
        : {
            memory: {
              client: peaksOf(samples.client),
              server: peaksOf(samples.server),
              serverLoading: peaksOf(samples.server, printed.readyEpochMs),
            },
          }),
      ...(printed.breakdown === undefined ? {} : { breakdown: printed.breakdown }),
    }
  }
  return {
    isReady: turns.asked(1),
    takeTurn: () => {
      const next = turns.asked(turns.count() + 1)
      client.write("\n")
      return next
    },
    result,
    [Symbol.asyncDispose]: () => client.stop(),
  }
}

/** Counts how often a client asks for its turn, by a line on stderr. */
const turnsOf = () => {
  let rest = ""
  let count = 0
  let isOver = false
  let waiting: Array<{ readonly count: number; readonly resolve: () => void }> = []
  const wake = (): void => {
    const isDue = (wanted: number): boolean => isOver || wanted <= count
    for (const { count: wanted, resolve } of waiting) if (isDue(wanted)) resolve()
    waiting = waiting.filter(({ count: wanted }) => !isDue(wanted))
  }
  return {
    read: (text: string): void => {
      const lines = (rest + text).split("\n")
      rest = lines.pop() ?? ""
      count += lines.filter((line) => line === "turn").length
      wake()
    },
    /** No more will come. */
    end: (): void => {
      isOver = true
      wake()
    },
    count: (): number => count,
    /** Resolves when it has asked so often, or will not any more. */
    asked: (wanted: number): Promise<void> =>
      new Promise((resolve) => {
        waiting.push({ count: wanted, resolve })
        wake()
      }),
  }
}

/** Runs a client to its end. @throws {Error} with what it printed, when it fails */
export const runClient = async (
  setup: Omit<ClientSetup, "inTurns">,
  servers: readonly ServerProcess[],
  job: ClientJob,
): Promise<ClientResult> => {
  await using client = await startClient({ ...setup, inTurns: false }, servers, job)
  return await client.result()
}

/** What both clients print, as far as it is read here. */
interface PrintedResult {
  readonly readyEpochMs: number
  readonly loadMs: number
  /** upstream-client times the context by itself; ours counts it as loading. */
  readonly contextMs?: number
  readonly breakdown?: Breakdown
  readonly runs: ReadonlyArray<{
    readonly tokens: readonly number[]
    readonly promptMs: number
    /** Of upstream-client, by token. */
    readonly tokenMs?: readonly number[]
    readonly generateMs?: number
  }>
}

const generationMs = (run: PrintedResult["runs"][number]): number =>
  run.generateMs ?? (run.tokenMs ?? []).reduce((sum, ms) => sum + ms, 0)

const clientProgram = async (side: Side): Promise<readonly string[]> =>
  side === "upstream"
    ? [(await ensurePeers(["upstream-client"]))["upstream-client"]]
    : [process.execPath, await bundledClient(side)]

const bundles = new Map<Side, Promise<string>>()

/** Our client, bundled as a program of a user's and as `ggml-rpc` itself: with its engine, where that may be. */
const bundledClient = (side: Exclude<Side, "upstream">): Promise<string> => {
  const made = bundles.get(side) ?? makeClient(side)
  bundles.set(side, made)
  return made
}

const makeClient = async (side: Exclude<Side, "upstream">): Promise<string> => {
  const folder = fileOf(side, join(root, "tests", "build", "bench-client"))
  const client = fileOf(side, join(import.meta.dir, "ggml-rpc-client.ts"))
  const engine = "@ggml-rpc/client/engine"
  const engineFile = Bun.resolveSync(engine, dirname(client))
  const files = { "client.js": client, [workerBundleName(engine)]: engineFile }
  for (const [name, entry] of Object.entries(files)) {
    const { outputs } = await Bun.build({ entrypoints: [entry], target: "bun" })
    await Bun.write(join(folder, name), outputs[0]!)
  }
  return join(folder, "client.js")
}

const clientArguments = (servers: readonly ServerProcess[], job: ClientJob): readonly string[] => [
  ...["-m", job.modelPath, "--rpc", servers.map((server) => server.endpoint).join(",")],
  ...["--tokens", job.prompt.join(","), "-n", String(job.generate), "-t", "1"],
  ...["-c", String(job.contextSize), "-ub", String(job.ubatchSize)],
  ...["--repeat", String(job.repeat)],
  // Else each side would split by its own idea of free memory.
  ...["-ts", servers.map(() => "1").join(",")],
]

/** Waits until the servers have cleaned up after a client, at most two seconds. */
const quiet = async (groups: readonly number[]): Promise<void> => {
  let before = groupCpuSeconds(groups)
  await waitUntil(async () => {
    await Bun.sleep(150)
    const now = groupCpuSeconds(groups)
    const isQuiet = now === before
    before = now
    return isQuiet
  }, 2000)
}
