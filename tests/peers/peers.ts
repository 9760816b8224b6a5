/**
 * The upstream peers: llama.cpp's own RPC library, server, tests and tools, and a client of ours over
 * `llama.h`, compiled from the pinned release's source against its prebuilt libraries; library, server and
 * client also from every other release of `releases.ts`.
 *
 * Each peer lies in a folder of its own, named by a hash of all that goes into it, under
 * `tests/build/peers` or, of an older release, in that release's folder. A folder appears by one rename, so test runs that build at the same time do
 * not see each other's halves. ggml looks for its backends beside the executable: the folders hold
 * links to the CPU backends and to `libggml-rpc.so`.
 */
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
} from "node:fs"
import { availableParallelism } from "node:os"
import { basename, dirname, join, relative } from "node:path"
import type { PrebuiltLibraries } from "@ggml-rpc/native/source"
import { Data } from "effect"
import {
  enabledReleases,
  ensureReleaseLibraries,
  ensureReleaseSource,
  newestRelease,
  type Release,
  releaseFolder,
} from "./releases.ts"

export type PeerName =
  | "libggml-rpc.so"
  | "librpc-device.so"
  | "librefusing-device.so"
  | "libpaired-device.so"
  | "rpc-server"
  | "upstream-client"
  | "test-backend-ops"
  | "test-llama-archs"
  | "llama-bench"
  | "llama-batched-bench"
  | "llama-completion"
  | "delay-relay"
  | "libcount-traffic.so"

/** A peer could not be compiled; the message holds the compiler's output. */
export class PeerBuildError extends Data.TaggedError("PeerBuildError")<{
  readonly peer: string
  readonly message: string
}> {}

interface Recipe {
  /** Paths in the llama.cpp source tree. */
  readonly upstream: ReadonlyArray<string>
  /** More of these, which only some releases have. */
  readonly upstreamIfThere?: ReadonlyArray<string>
  /** Files of ours, in this folder. */
  readonly own: ReadonlyArray<string>
  readonly flags: ReadonlyArray<string>
  readonly links: ReadonlyArray<"llamaCommon" | "llama" | "ggml" | "ggmlBase">
  readonly linksRpc?: true
}

// What cmake passes for a backend in a file of its own, in a release build.
const backendFlags = ["-fPIC", "-shared", "-DGGML_BACKEND_DL", "-DGGML_BACKEND_SHARED"]

const recipes: Record<PeerName, Recipe> = {
  "libggml-rpc.so": {
    upstream: ["ggml/src/ggml-rpc/ggml-rpc.cpp"],
    upstreamIfThere: ["ggml/src/ggml-rpc/transport.cpp"],
    own: [],
    // The benchmarks compare with this: as upstream's release builds.
    flags: ["-O3", "-DNDEBUG", "-DGGML_BACKEND_BUILD", ...backendFlags],
    links: ["ggmlBase"],
  },
  "librpc-device.so": {
    upstream: [],
    own: ["rpc-device.cpp"],
    flags: ["-O1", ...backendFlags],
    links: ["ggml", "ggmlBase"],
    linksRpc: true,
  },
  "librefusing-device.so": {
    upstream: [],
    own: ["refusing-device.cpp"],
    flags: ["-O1", ...backendFlags],
    links: ["ggml", "ggmlBase"],
  },
  "libpaired-device.so": {
    upstream: [],
    own: ["paired-device.cpp"],
    flags: ["-O1", "-pthread", ...backendFlags],
    links: ["ggml", "ggmlBase"],
  },
  "rpc-server": {
    upstream: ["tools/rpc/rpc-server.cpp"],
    own: [],
    flags: ["-O1"],
    links: ["ggml", "ggmlBase"],
  },
  "upstream-client": {
    upstream: [],
    own: ["upstream-client.cpp"],
    flags: ["-O2"],
    links: ["llama", "ggml", "ggmlBase"],
  },
  "test-backend-ops": {
    upstream: ["tests/test-backend-ops.cpp"],
    own: ["one-thread-reference.cpp"],
    // At -O0 it compiles 5 s faster, and every run with a params filter (-p) takes 10 s longer.
    flags: ["-O1"],
    links: ["ggml", "ggmlBase"],
  },
  "test-llama-archs": {
    // The prebuilt libllama carries node-llama-cpp's patch of this loader (PR 22566), which makes
    // llama_model_init_from_user refuse metadata without tensors, as this test gives it. The
    // executable's copy of the release's own loader takes precedence over the library's.
    upstream: ["tests/test-llama-archs.cpp", "src/llama-model-loader.cpp"],
    own: ["load-backends.cpp"],
    flags: ["-O1"],
    links: ["llamaCommon", "llama", "ggml", "ggmlBase"],
  },
  "llama-bench": {
    upstream: ["tools/llama-bench/llama-bench.cpp", "tools/llama-bench/main.cpp"],
    own: [],
    flags: ["-O1"],
    links: ["llamaCommon", "llama", "ggml", "ggmlBase"],
  },
  "llama-batched-bench": {
    upstream: ["tools/batched-bench/batched-bench.cpp", "tools/batched-bench/main.cpp"],
    own: ["flush-log.cpp"],
    flags: ["-O1"],
    links: ["llamaCommon", "llama", "ggml", "ggmlBase"],
  },
  "delay-relay": { upstream: [], own: ["delay-relay.cpp"], flags: ["-O2"], links: [] },
  "libcount-traffic.so": {
    upstream: [],
    own: ["count-traffic.cpp"],
    flags: ["-O2", "-fPIC", "-shared"],
    links: [],
  },
  "llama-completion": {
    upstream: ["tools/completion/completion.cpp", "tools/completion/main.cpp"],
    own: ["flush-log.cpp"],
    flags: ["-O1"],
    links: ["llamaCommon", "llama", "ggml", "ggmlBase"],
  },
}

export const peerNames = Object.keys(recipes) as ReadonlyArray<PeerName>

/** What is compiled from older releases. */
export const releasePeers = ["libggml-rpc.so", "rpc-server", "upstream-client"] as const
export type ReleasePeerName = (typeof releasePeers)[number]

export interface PeerOptions {
  /** Default the newest, which alone has all peers; of the others, see {@link ReleasePeerName}. */
  readonly release?: Release
  /** Folder of all peers; default `tests/build/peers`, or `peers` in the release's folder. */
  readonly root?: string
  /** C++ compiler; default the environment's `CXX`, else `g++`. */
  readonly compiler?: string
}

/**
 * Paths of the named peers (default: all), compiling what is not in the cache: half a minute for all
 * of them on two cores. Compile times go to stderr.
 *
 * @throws {PeerBuildError} with the compiler's output
 * @throws {SourceError | PrebuiltMissingError} see `@ggml-rpc/native/source`
 */
export const ensurePeers: {
  <Name extends ReleasePeerName>(
    names: ReadonlyArray<Name>,
    options: PeerOptions & { readonly release: Release },
  ): Promise<Record<Name, string>>
  <Name extends PeerName = PeerName>(
    names?: ReadonlyArray<Name>,
    options?: Omit<PeerOptions, "release">,
  ): Promise<Record<Name, string>>
} = async <Name extends PeerName = PeerName>(
  names: ReadonlyArray<Name> = peerNames as ReadonlyArray<Name>,
  options: PeerOptions = {},
): Promise<Record<Name, string>> => {
  const bench = await prepare(options)
  for (const name of names) requireFor(name, options.release ?? newestRelease)
  const paths = await Promise.all(names.map((name) => ensurePeer(name, bench)))
  return Object.fromEntries(names.map((name, i) => [name, paths[i]])) as Record<Name, string>
}

const requireFor = (name: PeerName, release: Release): void => {
  if (release === newestRelease || releasePeers.some((candidate) => candidate === name)) return
  throw new PeerBuildError({
    peer: name,
    message: `${name} is not compiled from ${release.package.version}, but from the newest release alone: of the others there are ${releasePeers.join(", ")}.`,
  })
}

/** What every compile of one call shares. */
interface Workbench {
  readonly root: string
  readonly isOlder: boolean
  readonly source: string
  readonly libraries: PrebuiltLibraries
  readonly compiler: string
  /** Goes into every hash: another compiler or other libraries make another peer. */
  readonly fingerprint: string
  readonly peers: Map<PeerName, Promise<string>>
  readonly slots: Slots
}

const prepare = async (options: PeerOptions): Promise<Workbench> => {
  if (process.platform !== "linux") {
    throw new PeerBuildError({
      peer: "all",
      message: `The upstream peers are built on Linux only, not on ${process.platform}.`,
    })
  }
  const release = options.release ?? newestRelease
  const isOlder = release.prebuilt !== "installed"
  const root =
    options.root ??
    (isOlder
      ? join(releaseFolder(release), "peers")
      : join(import.meta.dir, "..", "build", "peers"))
  const compiler = options.compiler ?? process.env.CXX ?? "g++"
  const version = await compilerVersion(compiler)
  const libraries = await ensureReleaseLibraries(release)
  // An older release's libraries are the ones of the checksum, wherever they lie.
  const origin = release.prebuilt === "installed" ? libraries.dir : release.prebuilt.integrity
  return {
    root,
    isOlder,
    source: await ensureReleaseSource(release),
    libraries,
    compiler,
    fingerprint: `${release.package.version}\n${version}\n${origin}\n`,
    peers: new Map(),
    slots: new Slots(Math.min(availableParallelism(), 4)),
  }
}

const compilerVersion = async (compiler: string): Promise<string> => {
  if (Bun.which(compiler) === null) {
    throw new PeerBuildError({
      peer: "all",
      message: `The C++ compiler ${compiler} is not on PATH: install g++, or name another with CXX.`,
    })
  }
  const { output } = await compile([compiler, "--version"])
  return output.split("\n", 1)[0] ?? ""
}

const ensurePeer = (name: PeerName, bench: Workbench): Promise<string> => {
  const known = bench.peers.get(name)
  if (known !== undefined) return known
  const made = makePeer(name, bench)
  bench.peers.set(name, made)
  return made
}

const makePeer = async (name: PeerName, bench: Workbench): Promise<string> => {
  const rpcLibrary =
    name === "libggml-rpc.so" ? undefined : await ensurePeer("libggml-rpc.so", bench)
  const folder = join(bench.root, `${name}-${hashOf(name, bench, rpcLibrary)}`)
  const path = join(folder, name)
  if (existsSync(path)) return path

  mkdirSync(bench.root, { recursive: true })
  const work = mkdtempSync(join(bench.root, ".compile-"))
  try {
    await bench.slots.run(() => compilePeer(name, bench, work, folder, rpcLibrary))
    for (const target of [...bench.libraries.backends, ...(rpcLibrary ? [rpcLibrary] : [])]) {
      symlinkSync(pathFrom(folder, target, bench), join(work, basename(target)))
    }
    publish(work, folder, path)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
  return path
}

const hashOf = (name: PeerName, bench: Workbench, rpcLibrary: string | undefined): string => {
  const recipe = recipes[name]
  const hasher = new Bun.CryptoHasher("sha256")
  hasher.update(bench.fingerprint)
  const rpcFolder = rpcLibrary === undefined ? "" : basename(dirname(rpcLibrary))
  hasher.update(JSON.stringify([recipe, rpcFolder, commonFlags]))
  for (const file of recipe.own) hasher.update(readFileSync(join(import.meta.dir, file)))
  return hasher.digest("hex").slice(0, 12)
}

/** A release's folder may be copied elsewhere, so what lies in it is named from where the peer will lie. */
const pathFrom = (folder: string, target: string, bench: Workbench): string =>
  bench.isOlder ? relative(folder, target) : target

const publish = (work: string, folder: string, path: string): void => {
  try {
    renameSync(work, folder)
  } catch (error) {
    // Another run was faster; its peer has the same inputs.
    if (!existsSync(path)) throw error
  }
}

const includeFolders = ["ggml/include", "include", "ggml/src", "common", "src", "vendor"]
const commonFlags = ["-std=c++17", "-pthread", "-w"]

const compilePeer = async (
  name: PeerName,
  bench: Workbench,
  work: string,
  folder: string,
  rpcLibrary: string | undefined,
): Promise<void> => {
  const recipe = recipes[name]
  const { dir } = bench.libraries
  const rpath = bench.isOlder ? `$ORIGIN/${pathFrom(folder, dir, bench)}` : dir
  const optional = (recipe.upstreamIfThere ?? []).filter((file) =>
    existsSync(join(bench.source, file)),
  )
  const command = [
    bench.compiler,
    ...commonFlags,
    ...recipe.flags,
    ...includeFolders.map((folder) => `-I${join(bench.source, folder)}`),
    ...[...recipe.upstream, ...optional].map((file) => join(bench.source, file)),
    ...recipe.own.map((file) => join(import.meta.dir, file)),
    ...(recipe.linksRpc && rpcLibrary ? [rpcLibrary] : []),
    ...recipe.links.flatMap((library) => bench.libraries[library] ?? []),
    // $ORIGIN finds libggml-rpc.so, whose link lies beside; the folder, the prebuilt libraries.
    `-Wl,-rpath,${rpath}:$ORIGIN`,
    "-o",
    join(work, name),
  ]
  const started = performance.now()
  const { exitCode, output } = await compile(command)
  if (exitCode !== 0) {
    throw new PeerBuildError({
      peer: name,
      message: `Compiling ${name} failed (exit code ${exitCode}):\n${command.join(" ")}\n${output}`,
    })
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  process.stderr.write(`peers: compiled ${name} in ${seconds} s\n`)
}

const compile = async (command: string[]): Promise<{ exitCode: number; output: string }> => {
  const child = Bun.spawn(command, { stdin: "ignore", stdout: "pipe", stderr: "pipe" })
  const [stdout, stderr, exitCode] = await Promise.all([
    child.stdout.text(),
    child.stderr.text(),
    child.exited,
  ])
  return { exitCode, output: `${stdout}${stderr}` }
}

/** Runs at most `count` tasks at a time: a compile takes up to 500 MB. */
class Slots {
  readonly #waiting: Array<() => void> = []
  #free: number

  constructor(count: number) {
    this.#free = count
  }

  async run<A>(task: () => Promise<A>): Promise<A> {
    if (this.#free === 0) await new Promise<void>((resolve) => this.#waiting.push(resolve))
    else this.#free -= 1
    try {
      return await task()
    } finally {
      const next = this.#waiting.shift()
      if (next === undefined) this.#free += 1
      else next()
    }
  }
}

/** Bytes of all files below a folder. */
const folderBytes = (folder: string): number =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, entry) => sum + lstatSync(join(entry.parentPath, entry.name)).size, 0)

if (import.meta.main) {
  console.log(await ensurePeers())
  for (const release of enabledReleases().filter((enabled) => enabled !== newestRelease)) {
    const started = performance.now()
    console.log(await ensurePeers(releasePeers, { release }))
    const seconds = ((performance.now() - started) / 1000).toFixed(1)
    const megabytes = (folderBytes(releaseFolder(release)) / 1e6).toFixed(0)
    process.stderr.write(
      `peers: llama.cpp ${release.llamaVersion} (protocol ${release.protocol}) in ${seconds} s, ${megabytes} MB\n`,
    )
  }
}
