/**
 * For `sandbox.test.ts`: enters the sandbox as a session process does, and says what it got. Then makes the attempts, on the
 * main thread or on one that was there before, and says how each ended, a line each: `done`, or an error's name.
 */
import { dlopen, ptr, toArrayBuffer } from "bun:ffi"
import { closeSync, openSync, readFileSync, renameSync, unlinkSync, writeSync } from "node:fs"
import { constants } from "node:os"
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads"
import { cString, io, socketPair } from "@ggml-rpc/native/bindings"
import { enterSandbox, type SandboxOptions } from "../src/session/sandbox.ts"

/** What to try, and its argument. */
export type Attempt = readonly [name: keyof typeof attempts, argument: string]

export interface Trial {
  readonly thread: "main" | "other"
  readonly attempts: readonly Attempt[]
  readonly options: Partial<SandboxOptions>
}

/** Numbers of system calls that the C library has no function for. */
const numbers =
  process.arch === "arm64"
    ? {
        bpf: 280,
        keyctl: 219,
        perf_event_open: 241,
        io_uring_setup: 425,
        memfd_create: 279,
        clone3: 435,
      }
    : {
        bpf: 321,
        keyctl: 250,
        perf_event_open: 298,
        io_uring_setup: 425,
        memfd_create: 319,
        clone3: 435,
      }

const libc = dlopen("libc.so.6", {
  __errno_location: { args: [], returns: "ptr" },
  syscall: { args: ["i64", "i64", "i64", "i64", "i64", "i64"], returns: "i64" },
  execv: { args: ["ptr", "ptr"], returns: "i32" },
  fork: { args: [], returns: "i32" },
  socket: { args: ["i32", "i32", "i32"], returns: "i32" },
  connect: { args: ["i32", "ptr", "i32"], returns: "i32" },
  bind: { args: ["i32", "ptr", "i32"], returns: "i32" },
  listen: { args: ["i32", "i32"], returns: "i32" },
  accept: { args: ["i32", "ptr", "ptr"], returns: "i32" },
  sendto: { args: ["i32", "ptr", "i64", "i32", "ptr", "i32"], returns: "i64" },
  ptrace: { args: ["i64", "i64", "i64", "i64"], returns: "i64" },
  process_vm_readv: { args: ["i32", "ptr", "i64", "ptr", "i64", "i64"], returns: "i64" },
  kill: { args: ["i32", "i32"], returns: "i32" },
  fcntl: { args: ["i32", "i32", "i32"], returns: "i32" },
  mount: { args: ["ptr", "ptr", "ptr", "i64", "ptr"], returns: "i32" },
  unshare: { args: ["i32"], returns: "i32" },
  prctl: { args: ["i32", "i64", "i64", "i64", "i64"], returns: "i32" },
  mmap: { args: ["ptr", "i64", "i32", "i32", "i32", "i64"], returns: "i64" },
  setpriority: { args: ["i32", "i32", "i32"], returns: "i32" },
}).symbols

const errnoName = (): string => {
  const place = libc.__errno_location()!
  const number = new Int32Array(toArrayBuffer(place, 0, 4))[0]!
  return Object.entries(constants.errno).find(([, value]) => value === number)?.[0] ?? `${number}`
}

const outcome = (result: number | bigint): string => (Number(result) < 0 ? errnoName() : "done")

const call = (name: keyof typeof numbers, ...values: readonly number[]): string => {
  const [a = 0, b = 0, c = 0, d = 0, e = 0] = values
  return outcome(libc.syscall(numbers[name], a, b, c, d, e))
}

/** 127.0.0.1:9. */
const address = new Uint8Array(16)
new DataView(address.buffer).setUint16(0, 2, true)
address.set([0, 9, 127, 0, 0, 1], 2)

const block = new Uint8Array(4096)

/** A socket that was there before. */
const [socket] = socketPair()

const standard: SandboxOptions = {
  hasDrivers: false,
  makesCommLinks: false,
  threadCount: 1,
  memoryBytes: 2 ** 50,
}

const opened = (path: string, flags: string): string => {
  closeSync(openSync(path, flags))
  return "done"
}

const attempts = {
  open: (path: string) => opened(path, "r"),
  write: (path: string) => opened(path, "w"),
  "write into": (path: string) => opened(path, "r+"),
  move: (paths: string) => {
    const [from, to] = paths.split(" ")
    renameSync(from!, to!)
    return "done"
  },
  remove: (path: string) => {
    unlinkSync(path)
    return "done"
  },
  "lease to read": (path: string) => outcome(libc.fcntl(openSync(path, "r"), 1024, 0)),
  "lease to write": (path: string) => outcome(libc.fcntl(openSync(path, "r"), 1024, 1)),
  read: (path: string) => (readFileSync(path, "utf8") === "" ? "empty" : "done"),
  "enter again": () => enterSandbox(standard).problems.join(", "),
  spawn: () => String(Bun.spawnSync(["/bin/true"]).exitCode),
  exec: () => outcome(libc.execv(cString("/bin/true"), ptr(new BigUint64Array(2)))),
  fork: () => outcome(libc.fork()),
  socket: () => outcome(libc.socket(2, 1, 0)),
  "local socket": () => outcome(libc.socket(1, 1, 0)),
  connect: () => outcome(libc.connect(socket, address, 16)),
  "connect to a port": () => outcome(libc.connect(libc.socket(2, 1, 0), address, 16)),
  bind: () => outcome(libc.bind(socket, address, 16)),
  listen: () => outcome(libc.listen(socket, 1)),
  accept: () => outcome(libc.accept(socket, null, null)),
  "connect by sending": () => outcome(libc.sendto(socket, block, 1, 0x2000_0000, address, 16)),
  send: () => outcome(libc.sendto(socket, block, 1, 0, null, 0)),
  ptrace: (pid: string) => outcome(libc.ptrace(16, Number(pid), 0, 0)),
  process_vm_readv: (pid: string) =>
    outcome(libc.process_vm_readv(Number(pid), block, 0, block, 0, 0)),
  kill: (pid: string) => outcome(libc.kill(pid === "itself" ? process.pid : Number(pid), 0)),
  "signal by socket": (pid: string) => outcome(libc.fcntl(socket, 8, Number(pid))),
  mount: () => outcome(libc.mount(null, cString("/"), null, 0, null)),
  unshare: () => outcome(libc.unshare(0x1000_0000)),
  bpf: () => call("bpf"),
  keyctl: () => call("keyctl"),
  perf_event_open: () => call("perf_event_open"),
  io_uring_setup: () => call("io_uring_setup", 1),
  memfd_create: () => call("memfd_create", ptr(block)),
  "shared memory": () => outcome(libc.mmap(null, 4096, 3, 0x21, -1, 0)),
  "private memory": (bytes: string) => outcome(libc.mmap(null, Number(bytes), 3, 0x22, -1, 0)),
  setpriority: (pid: string) => outcome(libc.setpriority(0, Number(pid), 19)),
  "undo no_new_privs": () => outcome(libc.prctl(38, 0, 0, 0, 0)),
} as const satisfies Record<string, (argument: string) => string>

const say = (text: string): void => {
  writeSync(1, `${text}\n`)
}

const make = ([name, argument]: Attempt): string => {
  try {
    return attempts[name](argument)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error)
  }
}

/** Ends the process. */
const makeAll = ({ attempts }: Trial): void => {
  for (const attempt of attempts) say(make(attempt))
  io().io_exit(0)
}

if (isMainThread) {
  const trial = JSON.parse(process.argv[2]!) as Trial
  const thread = new Worker(import.meta.path, { workerData: trial })
  await new Promise((resolve) => thread.once("message", resolve))
  say(JSON.stringify(enterSandbox({ ...standard, ...trial.options })))
  if (trial.thread === "main") makeAll(trial)
  else thread.postMessage("now")
} else {
  parentPort!.once("message", () => makeAll(workerData as Trial))
  parentPort!.postMessage("is there")
}
