/**
 * Processes for the tests: started in a group of their own, read, and ended with everything they
 * started. A test that leaves a process behind fails by the error that {@link ChildProcess.stop} throws.
 */
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs"
import { basename } from "node:path"
import { Data } from "effect"
import { ensurePeers } from "./peers.ts"
import { newestRelease, type Release } from "./releases.ts"

/** A process did not do what the test needs of it; the message ends with what it printed. */
export class ProcessError extends Data.TaggedError("ProcessError")<{
  readonly reason: "exited" | "timeout" | "left-behind"
  readonly message: string
}> {}

export interface StartOptions {
  readonly cwd?: string
  /** Added to this process's environment; undefined removes a variable. */
  readonly env?: Record<string, string | undefined>
  /** What it reads, or `write` for what `ChildProcess.write` gives it; default: nothing. */
  readonly stdin?: string | Uint8Array<ArrayBuffer> | { readonly from: "write" }
  /** Called with each piece of output as it comes. */
  readonly onStdout?: (text: string) => void
  readonly onStderr?: (text: string) => void
}

export interface ChildProcess extends AsyncDisposable {
  /** Also the id of its process group. */
  readonly pid: number
  /** What it printed so far on stdout; everything once `exited` has resolved. */
  readonly stdout: () => string
  readonly stderr: () => string
  /** Exit code, or 128 plus the signal's number, as in a shell; resolves when all output is read. */
  readonly exited: Promise<number>
  readonly isRunning: () => boolean
  /** Writes to its stdin, where that is `{ from: "write" }`. */
  readonly write: (text: string) => void
  readonly signal: (signal: NodeJS.Signals) => void
  /** CPU seconds of it and of the processes that it started and waited for; undefined while it runs. */
  readonly cpuSeconds: () => number | undefined
  /**
   * Ends it and all it started: SIGTERM, after `graceMs` (default 3000) SIGKILL.
   *
   * @throws {ProcessError} "left-behind" when processes of its group outlived it and had to be killed
   */
  readonly stop: (graceMs?: number) => Promise<void>
}

// Groups still running; a test run that ends early, by Ctrl-C too, takes them along.
const running = new Set<number>()
const killRunning = (): void => {
  for (const pid of running) signalGroup(pid, "SIGKILL")
}
process.on("exit", killRunning)
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.once(signal, () => {
    killRunning()
    process.kill(process.pid, signal)
  })
}

const stdinOf = (given: StartOptions["stdin"]): "ignore" | "pipe" | Blob => {
  if (given === undefined) return "ignore"
  return typeof given === "object" && "from" in given ? "pipe" : new Blob([given])
}

/** Starts a program, in a process group of its own. */
export const startProcess = (
  command: readonly string[],
  options: StartOptions = {},
): ChildProcess => {
  const child = Bun.spawn([...command], {
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    env: { ...process.env, ...options.env },
    stdin: stdinOf(options.stdin),
    stdout: "pipe",
    stderr: "pipe",
    detached: true,
  })
  const { pid } = child
  running.add(pid)
  const stdout = collect(child.stdout, options.onStdout)
  const stderr = collect(child.stderr, options.onStderr)
  const exited = (async () => {
    await child.exited
    // A process that it left behind may hold the pipes open.
    await within(Promise.all([stdout.done, stderr.done]), 2000)
    if (!groupExists(pid)) running.delete(pid)
    return exitCodeOf(child)
  })()
  const stop = async (graceMs = 3000): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) {
      signalGroup(pid, "SIGTERM")
      await within(child.exited, graceMs)
    }
    const leftBehind =
      child.exitCode !== null || child.signalCode !== null ? await survivors(pid, graceMs) : []
    signalGroup(pid, "SIGKILL")
    await exited
    await waitUntil(() => !groupExists(pid), 5000)
    running.delete(pid)
    if (leftBehind.length > 0) {
      throw new ProcessError({
        reason: "left-behind",
        message: `${nameOf(command)} ended and left processes behind: ${leftBehind.join("; ")}\n${tail(stderr.text())}`,
      })
    }
  }
  return {
    pid,
    stdout: stdout.text,
    stderr: stderr.text,
    exited,
    isRunning: () => child.exitCode === null && child.signalCode === null,
    write: (text) => {
      if (typeof child.stdin !== "object") throw new Error('its stdin is not { from: "write" }')
      child.stdin.write(text)
      child.stdin.flush()
    },
    signal: (signal) => child.kill(signal),
    cpuSeconds: () => {
      const usage = child.resourceUsage()
      return usage && Number(usage.cpuTime.total) / 1e6
    },
    stop,
    [Symbol.asyncDispose]: () => stop(),
  }
}

export interface FinishedProcess {
  readonly exitCode: number
  readonly stdout: string
  readonly stderr: string
}

/**
 * Runs a program to its end.
 *
 * @param timeoutMs default 60000
 * @throws {ProcessError} "timeout"; the program has been killed
 */
export const runProcess = async (
  command: readonly string[],
  options: StartOptions & { readonly timeoutMs?: number } = {},
): Promise<FinishedProcess> => {
  await using child = startProcess(command, options)
  const timeoutMs = options.timeoutMs ?? 60_000
  const exitCode = await within(child.exited, timeoutMs)
  if (exitCode === undefined) {
    throw new ProcessError({
      reason: "timeout",
      message: `${nameOf(command)} did not end within ${timeoutMs} ms; it printed:\n${tail(child.stdout() + child.stderr())}`,
    })
  }
  return { exitCode, stdout: child.stdout(), stderr: child.stderr() }
}

export interface ServerProcess extends ChildProcess {
  readonly port: number
  /** `127.0.0.1:port`. */
  readonly endpoint: string
}

/**
 * Starts a server that cannot pick a port itself, on a port that was free a moment ago, and waits
 * until that very process listens there (asked of the kernel: a connection would take the place of
 * the only client that upstream's server has). Tries other ports when the server ends at once.
 *
 * @param command gets the port
 * @throws {ProcessError} "exited" or "timeout", with the server's output
 */
export const startServer = async (
  command: (port: number) => readonly string[],
  options: StartOptions & { readonly timeoutMs?: number } = {},
): Promise<ServerProcess> => {
  const timeoutMs = options.timeoutMs ?? 20_000
  for (let attempt = 1; ; attempt++) {
    const port = freePort()
    const child = startProcess(command(port), options)
    const listening = await waitUntil(
      () => !child.isRunning() || listens(child.pid, port),
      timeoutMs,
    )
    if (listening && child.isRunning()) return { ...child, port, endpoint: `127.0.0.1:${port}` }
    const reason = child.isRunning() ? "timeout" : "exited"
    await child.stop()
    const exitCode = await child.exited
    if (reason === "exited" && attempt < 5) continue
    throw new ProcessError({
      reason,
      message: `${nameOf(command(port))} ${reason === "exited" ? `ended with exit code ${exitCode}` : `did not listen within ${timeoutMs} ms`}; it printed:\n${tail(child.stdout() + child.stderr())}`,
    })
  }
}

export interface RpcServerOptions extends StartOptions {
  /** Default the newest. These options are the same in all of them. */
  readonly release?: Release
  /** Default 2. */
  readonly threads?: number
  /** `-c`; set `LLAMA_CACHE` in `env` to say where. */
  readonly cache?: boolean
  /** `-d`. */
  readonly devices?: string
  /** Put before the command, such as `["taskset", "-c", "0"]`. */
  readonly prefix?: readonly string[]
}

/** Starts upstream's rpc-server, compiling it first where needed. It serves one client at a time. */
export const startUpstreamServer = async (
  options: RpcServerOptions = {},
): Promise<ServerProcess> => {
  const paths = await ensurePeers(["rpc-server"], { release: options.release ?? newestRelease })
  return startServer(
    (port) => [
      ...(options.prefix ?? []),
      paths["rpc-server"],
      ...["-p", String(port), "-t", String(options.threads ?? 2)],
      ...(options.cache ? ["-c"] : []),
      ...(options.devices === undefined ? [] : ["-d", options.devices]),
    ],
    options,
  )
}

/** A TCP port of the loopback interface that nobody listens on right now. */
export const freePort = (): number => {
  const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } })
  const { port } = listener
  listener.stop(true)
  return port
}

/** Waits until `condition` holds; false when it does not within `timeoutMs`. */
export const waitUntil = async (
  condition: () => boolean | Promise<boolean>,
  timeoutMs: number,
): Promise<boolean> => {
  const deadline = performance.now() + timeoutMs
  while (!(await condition())) {
    if (performance.now() > deadline) return false
    await Bun.sleep(10)
  }
  return true
}

/** The promise's value, or undefined when it takes longer. */
export const within = async <A>(promise: Promise<A>, timeoutMs: number): Promise<A | undefined> => {
  let timer: ReturnType<typeof setTimeout> | undefined
  const timeout = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), timeoutMs)
  })
  try {
    return await Promise.race([promise, timeout])
  } finally {
    clearTimeout(timer)
  }
}

/** Processes of a group, with the leader; zombies do not count. */
export const groupMembers = (group: number): number[] =>
  readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      const fields = statOf(pid)
      return fields !== undefined && fields.state !== "Z" && fields.group === group
    })

/** Resident bytes at their highest, of one process that still runs. */
export const peakResidentBytes = (pid: number): number => {
  const line = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))
  return Number(line?.[1] ?? 0) * 1024
}

const statOf = (pid: number): { state: string; group: number } | undefined => {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8")
    // pid (name) state parent group ...; the name may hold spaces and brackets.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
    return { state: fields[0] ?? "", group: Number(fields[2]) }
  } catch {
    return undefined
  }
}

const groupExists = (group: number): boolean => groupMembers(group).length > 0

const signalGroup = (group: number, signal: NodeJS.Signals): void => {
  try {
    process.kill(-group, signal)
  } catch {
    // It is gone already.
  }
}

/** Command lines of a group's processes that are still there `graceMs` after their leader ended. */
const survivors = async (group: number, graceMs: number): Promise<string[]> => {
  await waitUntil(() => !groupExists(group), graceMs)
  return groupMembers(group).map((pid) => `${pid} ${commandLineOf(pid)}`)
}

const commandLineOf = (pid: number): string => {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim()
  } catch {
    return "(ended)"
  }
}

/** Whether a process of this group listens on the port, by /proc/net/tcp and the sockets it holds. */
const listens = (group: number, port: number): boolean => {
  const inodes = listeningInodes(port)
  return inodes.size > 0 && groupMembers(group).some((pid) => holdsSocket(pid, inodes))
}

const listeningInodes = (port: number): Set<string> => {
  const hexPort = port.toString(16).toUpperCase().padStart(4, "0")
  const inodes = new Set<string>()
  for (const table of ["/proc/net/tcp", "/proc/net/tcp6"]) {
    if (!existsSync(table)) continue
    for (const line of readFileSync(table, "utf8").split("\n").slice(1)) {
      const fields = line.trim().split(/\s+/)
      const [local, state, inode] = [fields[1], fields[3], fields[9]]
      // 0A is LISTEN.
      if (local?.endsWith(`:${hexPort}`) && state === "0A" && inode) inodes.add(`socket:[${inode}]`)
    }
  }
  return inodes
}

const holdsSocket = (pid: number, inodes: Set<string>): boolean => {
  try {
    return readdirSync(`/proc/${pid}/fd`).some((fd) => {
      try {
        return inodes.has(readlinkSync(`/proc/${pid}/fd/${fd}`))
      } catch {
        return false
      }
    })
  } catch {
    return false
  }
}

const collect = (
  stream: ReadableStream<Uint8Array>,
  onText: (text: string) => void = () => {},
): { text: () => string; done: Promise<void> } => {
  const decoder = new TextDecoder()
  let text = ""
  const done = (async () => {
    for await (const chunk of stream) {
      const piece = decoder.decode(chunk, { stream: true })
      text += piece
      onText(piece)
    }
    text += decoder.decode()
  })()
  return { text: () => text, done }
}

const signalNumbers: Record<string, number> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGABRT: 6,
  SIGKILL: 9,
  SIGSEGV: 11,
  SIGPIPE: 13,
  SIGTERM: 15,
}

const exitCodeOf = (child: Bun.Subprocess): number =>
  child.signalCode === null ? (child.exitCode ?? -1) : 128 + (signalNumbers[child.signalCode] ?? 0)

const nameOf = (command: readonly string[]): string => basename(command[0] ?? "")

const tail = (text: string): string => text.slice(-4000)
