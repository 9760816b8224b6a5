/**
 * What a session process gives up before it reads the first byte of a client: most system calls, all files but those that it
 * goes on using, memory beyond what it may serve. What a hole in ggml, or in the checks before it, lets a client do ends here.
 * docs/security.md says what each part is for.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs"
import { homedir } from "node:os"
import { join } from "node:path"
import { cString, ggml, hostMemory, io, ioErrorText } from "@ggml-rpc/native/bindings"
import { FOLDER_MODE, partsFolder } from "../cache/CacheFolder.ts"
import { attempt } from "../cache/files.ts"
import type { ModelsConfig } from "../front/ModelIndexer.ts"
import { MAX_BUFFERS } from "./memory/buffers.ts"

export interface SandboxOptions {
  /** Folder of the tensor cache, absolute; absent: no cache. */
  readonly cacheDir?: string
  /** Models that it may read, and their index. */
  readonly models?: ModelsConfig
  /** Most memory that it may serve, in bytes; never more than this machine's, within its cgroups. */
  readonly memoryBytes: number
  /** Whether it serves more than the CPU: drivers open devices, and read and map what they need, at the first use. */
  readonly hasDrivers: boolean
  /** Whether it listens for, and dials, other servers (`--allow-comm`). */
  readonly makesCommLinks: boolean
  readonly threadCount: number
}

/** What of it this machine gave. */
export interface SandboxReport extends Pick<SandboxOptions, "hasDrivers" | "makesCommLinks"> {
  /** Version of Landlock, which limits files; 0: they are not limited. */
  readonly landlock: number
  /** Whether system calls are limited: no new programs, no new sockets, nothing of other processes. */
  readonly calls: boolean
  /** Whether memory is limited. */
  readonly memory: boolean
  /** Why something is missing. */
  readonly problems: readonly string[]
}

/** On either side of a buffer; shim/ggml/guarded_buffer.cpp. */
const GUARD_BYTES = 64 * 1024 * 1024

/** For the heaps of the runtime and of ggml, what it computes with, and each thread's stack and heap. */
const HEADROOM_BYTES = 4 * 1024 ** 3
const THREAD_BYTES = 80 * 1024 * 1024

/** -ENOENT: there is no /proc that would say what is mapped. */
const NOT_FOUND = -2

/** See `io_landlock_allow`. */
const rights = { readFiles: 0, read: 1, write: 2, writeFolders: 3, devices: 4, take: 5 } as const

type Allowed = readonly [path: string, right: number]

/** Takes it all away, from all threads. What the system does not have, or does not let us do, is in the report. */
export const enterSandbox = (options: SandboxOptions): SandboxReport => {
  const problems: string[] = []
  const succeeds = (what: string, result: number): boolean => {
    if (result >= 0) return true
    problems.push(`${what}: ${ioErrorText(result)}`)
    return false
  }
  // CUDA reserves addresses for all memory of the machine and its GPUs at the first use.
  const memory = !options.hasDrivers && succeeds("memory limit", limitMemory(options))
  const ruleset = allowFiles(options)
  const hasLandlock = succeeds("Landlock", ruleset)
  const areConfined = succeeds("confining threads", io().io_confine_threads(Math.max(-1, ruleset)))
  const landlock = hasLandlock && areConfined ? io().io_landlock_abi() : 0
  const needs = (options.hasDrivers ? 1 : 0) | (options.makesCommLinks ? 2 : 0)
  const calls = succeeds("seccomp", io().io_forbid_calls(needs))
  const { hasDrivers, makesCommLinks } = options
  return { hasDrivers, makesCommLinks, landlock, calls, memory, problems }
}

const limitMemory = ({ memoryBytes, threadCount }: SandboxOptions): number => {
  const status = attempt(() => readFileSync("/proc/self/status", "utf8")) ?? ""
  const mapped = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(status)?.[1] ?? Number.NaN) * 1024
  const more =
    Math.min(memoryBytes, hostMemory().totalBytes) + HEADROOM_BYTES + threadCount * THREAD_BYTES
  const addressBytes = mapped("VmSize") + more + MAX_BUFFERS * 2 * GUARD_BYTES
  const dataBytes = mapped("VmData") + more
  if (Number.isNaN(addressBytes) || Number.isNaN(dataBytes)) return NOT_FOUND
  return io().io_limit_memory(addressBytes, dataBytes)
}

/** The descriptor of what stays allowed, or a negative errno. */
const allowFiles = (options: SandboxOptions): number => {
  const ruleset = io().io_landlock_new(options.makesCommLinks ? 1 : 0)
  if (ruleset < 0) return ruleset
  for (const [path, right] of allowedFiles(options)) {
    // What is not there needs no permission.
    io().io_landlock_allow(ruleset, cString(path), right)
  }
  return ruleset
}

const allowedFiles = ({
  cacheDir,
  models,
  hasDrivers,
  makesCommLinks,
}: SandboxOptions): readonly Allowed[] => {
  // How much memory is free, and what other sessions have written of what they were promised.
  const allowed: Allowed[] = [
    ["/proc", rights.readFiles],
    ["/sys/fs/cgroup", rights.readFiles],
  ]
  if (cacheDir !== undefined) {
    const parts = partsFolder(cacheDir)
    attempt(() => mkdirSync(parts, { recursive: true, mode: FOLDER_MODE }))
    allowed.push([parts, rights.write])
    // What is finished may be mapped by other sessions.
    if (parts !== cacheDir) allowed.push([cacheDir, rights.take])
  }
  if (models !== undefined) {
    allowed.push([models.indexFolder, rights.read])
    for (const folder of models.folders) allowed.push([folder, rights.readFiles])
  }
  if (makesCommLinks) for (const path of resolverFiles) allowed.push([path, rights.readFiles])
  return hasDrivers ? [...allowed, ...driverFiles()] : allowed
}

/** What finds the address of a name. */
const resolverFiles = [
  "/etc/hosts",
  "/etc/resolv.conf",
  "/etc/nsswitch.conf",
  "/etc/host.conf",
  "/etc/gai.conf",
  "/run/systemd/resolve",
]

/** Where drivers lie, and what they ask the system. */
const driverFolders = [
  ...["/usr", "/lib", "/lib64", "/opt/rocm", "/sys", "/proc"],
  ...["ld.so.cache", "alternatives", "nvidia", "vulkan", "glvnd", "OpenCL", "drirc"].map((name) =>
    join("/etc", name),
  ),
]

/** Where drivers of these devices (names in /dev) keep the kernels that they compile. */
export const driverCaches = (
  devices: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  home: string,
): readonly string[] => {
  const caches = env.XDG_CACHE_HOME || join(home, ".cache")
  const nvidia = [env.CUDA_CACHE_PATH || join(home, ".nv"), join(caches, "nvidia")]
  const mesa = [
    env.MESA_SHADER_CACHE_DIR || join(caches, "mesa_shader_cache"),
    join(caches, "mesa_shader_cache_db"),
  ]
  return [
    ...(devices.includes("nvidiactl") ? nvidia : []),
    ...(devices.includes("dri") ? mesa : []),
    ...(devices.includes("kfd") ? [join(caches, "comgr")] : []),
  ]
}

/** Devices, libraries, and the caches of compiled kernels of CUDA, ROCm, Vulkan. */
const driverFiles = (): readonly Allowed[] => {
  const devices = existsSync("/dev")
    ? readdirSync("/dev").filter((name) => /^(nvidia.*|dri|kfd|dxg)$/.test(name))
    : []
  const caches = driverCaches(devices, process.env, process.env.HOME || homedir())
  // A driver could not make one later, and would compile its kernels anew for each client: up to a minute.
  for (const path of caches) attempt(() => mkdirSync(path, { recursive: true }))
  return [
    ...devices.map((name): Allowed => [join("/dev", name), rights.devices]),
    ...[...driverFolders, ggml().set.dir].map((path): Allowed => [path, rights.read]),
    ...caches.map((path): Allowed => [path, rights.writeFolders]),
  ]
}
