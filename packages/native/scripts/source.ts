/**
 * Where the source of ggml and llama.cpp comes from: the tree of the pinned release. The test peers fetch other
 * releases, and their libraries, the same way.
 *
 * The source is the git bundle inside the npm package `node-llama-cpp`. That package is fetched with
 * `npm pack` and is no dependency of the workspace: its optional dependencies are every CUDA and
 * Vulkan build of every platform, 600 MB that a build does not need.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from "node:fs"
import { basename, dirname, join } from "node:path"
import {
  buildRoot,
  llamaVersion,
  PrebuiltMissingError,
  packageVersion,
  prebuiltDir,
  prebuiltPackage,
  type Variant,
} from "../src/prebuilt.ts"
import { TaggedError } from "../src/taggedError.ts"

export * from "../src/prebuilt.ts"

/** One version of an npm package, pinned by its checksum. */
export interface PinnedPackage {
  readonly name: string
  readonly version: string
  /** `sha512-…`, from `npm view NAME@VERSION dist.integrity`. */
  readonly integrity: string
}

/** A llama.cpp release, by the package that carries its source. */
export interface SourceRelease {
  readonly package: PinnedPackage
  /** llama.cpp's tag, such as `v0.5.0` or `b6673`. */
  readonly llamaVersion: string
}

/** What everything but the test peers of other releases is built from. */
export const pinnedRelease: SourceRelease = {
  package: {
    name: "node-llama-cpp",
    version: packageVersion,
    integrity:
      "sha512-bltIipuWmc123H7tMIgDGKSsSrhmhlQYeVUC48XTjVW7XGJJiJJyCdlTMzQ/LiWoPkGDpcL4FviDpgw7qfTiDw==",
  },
  llamaVersion,
}

const bundlePath = "package/llama/gitRelease.bundle"

/** The source tree could not be made; the message says what is missing and what to do. */
export class SourceError extends TaggedError("SourceError")<{
  readonly reason: "npm" | "git" | "network" | "checksum" | "bundle" | "disk"
  readonly message: string
  readonly cause?: unknown
}> {}

export interface SourceOptions {
  /** Default {@link pinnedRelease}. */
  readonly release?: SourceRelease
  /** Folder that becomes the tree; default `llama.cpp-VERSION` in {@link buildRoot}. */
  readonly target?: string
  /**
   * What of the tree is needed, as git pathspecs; default all of it. A part comes without the
   * repository, which is larger than most parts.
   */
  readonly pathspecs?: ReadonlyArray<string>
  /** Hears a line before something is fetched. */
  readonly say?: (line: string) => void
}

/**
 * Folder of the llama.cpp source tree, fetched and unpacked at the first call. Safe to call from
 * several processes at once: each works in a folder of its own and the first rename wins.
 *
 * @throws {SourceError}
 */
export const ensureSource = ({
  release = pinnedRelease,
  target = join(buildRoot(), `llama.cpp-${release.llamaVersion}`),
  pathspecs,
  say = () => {},
}: SourceOptions = {}): Promise<string> =>
  ensureFolder(target, isSourceTree, async (work) => {
    const npm = findTool(
      "npm",
      "the llama.cpp source comes from an npm package",
      "Node.js with npm",
    )
    const git = findTool("git", "the llama.cpp source is a git bundle", "git")
    say(`fetching the llama.cpp source ${release.llamaVersion} (35 MB)`)
    const tarball = await download(npm, release.package, "the llama.cpp source", work)
    return unpack(git, tarball, work, pathspecs)
  })

/**
 * Folder of an unpacked npm package (what its `package.json` lies in), fetched at the first call;
 * nothing of it runs. As safe as {@link ensureSource} against others that fetch it.
 *
 * @throws {SourceError}
 */
export const ensurePackage = (pinned: PinnedPackage, target: string): Promise<string> =>
  ensureFolder(target, isPackage, async (work) => {
    const npm = findTool("npm", `${pinned.name} is an npm package`, "Node.js with npm")
    const tarball = await download(npm, pinned, "what is to be built", work)
    await new Bun.Archive(await Bun.file(tarball).bytes()).extract(work)
    return join(work, "package")
  })

/** Makes `target` in a folder beside it, unless it is there; `make` returns what is to become it. */
const ensureFolder = async (
  target: string,
  isWhole: (folder: string) => boolean,
  make: (work: string) => Promise<string>,
): Promise<string> => {
  if (isWhole(target)) return target
  const work = makeWorkFolder(dirname(target))
  try {
    moveInto(await make(work), target, work, isWhole)
    return target
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

const isPackage = (folder: string): boolean => existsSync(join(folder, "package.json"))

const isSourceTree = (folder: string): boolean => existsSync(join(folder, "include", "llama.h"))

const findTool = (tool: "npm" | "git", why: string, what: string): string => {
  const path = Bun.which(tool)
  if (path !== null) return path
  throw new SourceError({
    reason: tool,
    message: `${tool} is not on PATH, and ${why}: install ${what}.`,
  })
}

const makeWorkFolder = (root: string): string => {
  try {
    mkdirSync(root, { recursive: true })
    return mkdtempSync(join(root, ".fetch-"))
  } catch (cause) {
    throw new SourceError({
      reason: "disk",
      message: `The build folder ${root} cannot be written (${reasonOf(cause)}): free it, or name another with GGML_RPC_BUILD_DIR.`,
      cause,
    })
  }
}

/** As long as a slow line may take for it. */
const DOWNLOAD_TIMEOUT_MS = 600_000

/** npm's own limits, by which it tells within seconds that there is no network: its defaults are minutes. */
const npmPatience = ["--fetch-retries=1", "--fetch-retry-mintimeout=500", "--fetch-timeout=20000"]

/** Fetches a package into `work` and checks it; `content` says in errors what it carries. */
const download = async (
  npm: string,
  pinned: PinnedPackage,
  content: string,
  work: string,
): Promise<string> => {
  const spec = `${pinned.name}@${pinned.version}`
  const { exitCode, output, hasTimedOut } = await execute(
    [npm, "pack", spec, "--ignore-scripts", ...npmPatience],
    work,
    DOWNLOAD_TIMEOUT_MS,
  )
  const tarball = readdirSync(work).find((name) => name.endsWith(".tgz"))
  if (hasTimedOut) {
    throw new SourceError({
      reason: "network",
      message: `npm did not fetch ${spec}, which carries ${content}, within ${DOWNLOAD_TIMEOUT_MS / 60_000} minutes: check the network and npm's registry setting.`,
      cause: output,
    })
  }
  if (exitCode !== 0 || tarball === undefined) {
    throw new SourceError({
      reason: "network",
      message: `npm could not fetch ${spec}, which carries ${content} (${npmReason(output)}): ${isOffline(output) ? "the registry cannot be reached from this machine, which may be offline; connect it" : "check the network"} and npm's registry setting.`,
      cause: output,
    })
  }
  await checkIntegrity(join(work, tarball), pinned.integrity)
  return join(work, tarball)
}

/** The line that tells what went wrong; npm surrounds it with warnings and the path of its log. */
const npmReason = (output: string): string => {
  const errors = output.split("\n").filter((line) => /^npm (error|ERR!)/.test(line))
  const texts = errors.map((line) => line.replace(/^npm (error|ERR!)\s*/, "").trim())
  const telling = texts.filter((text) => text !== "" && !text.startsWith("A complete log"))
  return telling.slice(0, 3).join("; ") || "npm printed no error"
}

const isOffline = (output: string): boolean =>
  /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ENETUNREACH|EHOSTUNREACH|ETIMEDOUT/.test(output)

const checkIntegrity = async (tarball: string, pinned: string): Promise<void> => {
  const hasher = new Bun.CryptoHasher("sha512")
  for await (const chunk of Bun.file(tarball).stream()) hasher.update(chunk)
  const integrity = `sha512-${hasher.digest("base64")}`
  if (integrity === pinned) return
  throw new SourceError({
    reason: "checksum",
    message: `The fetched ${basename(tarball)} has checksum ${integrity} where ${pinned} is pinned: the download is damaged (run 'npm cache clean --force' and try again) or the registry serves another package.`,
  })
}

const unpack = async (
  git: string,
  tarball: string,
  work: string,
  pathspecs: ReadonlyArray<string> | undefined,
): Promise<string> => {
  await new Bun.Archive(await Bun.file(tarball).bytes()).extract(work, { glob: bundlePath })
  const bundle = join(work, bundlePath)
  if (!existsSync(bundle)) {
    throw new SourceError({
      reason: "bundle",
      message: `${basename(tarball)} holds no ${bundlePath}: this version of node-llama-cpp packs its source elsewhere.`,
    })
  }
  const tree = join(work, "tree")
  const { exitCode, output } = await (pathspecs === undefined
    ? execute([git, "clone", "--quiet", bundle, tree], work)
    : cloneParts(git, bundle, tree, work, pathspecs))
  if (exitCode !== 0 || !isSourceTree(tree)) {
    throw new SourceError({
      reason: "bundle",
      message: `git could not clone the llama.cpp bundle (${output.trim() || `exit code ${exitCode}`}).`,
      cause: output,
    })
  }
  return tree
}

const cloneParts = async (
  git: string,
  bundle: string,
  tree: string,
  work: string,
  pathspecs: ReadonlyArray<string>,
): Promise<Executed> => {
  const clone = await execute([git, "clone", "--quiet", "--no-checkout", bundle, tree], work)
  if (clone.exitCode !== 0) return clone
  const checkout = await execute([git, "checkout", "--quiet", "HEAD", "--", ...pathspecs], tree)
  rmSync(join(tree, ".git"), { recursive: true, force: true })
  return checkout
}

const moveInto = (
  made: string,
  target: string,
  work: string,
  isWhole: (folder: string) => boolean,
): void => {
  for (let attempt = 1; ; attempt++) {
    try {
      renameSync(made, target)
      return
    } catch (cause) {
      // Somebody was faster, or what lies there was damaged by hand; others may be repairing it too.
      if (isWhole(target)) return
      if (attempt === 5) {
        throw new SourceError({
          reason: "disk",
          message: `What was fetched could not be moved to ${target} (${reasonOf(cause)}): remove that folder and try again.`,
          cause,
        })
      }
      moveAway(target, join(work, `damaged-${attempt}`))
    }
  }
}

const moveAway = (folder: string, to: string): void => {
  try {
    renameSync(folder, to)
  } catch {
    // The next attempt tells whether it still is in the way.
  }
}

interface Executed {
  readonly exitCode: number
  readonly output: string
  readonly hasTimedOut: boolean
}

const execute = async (command: string[], cwd: string, timeoutMs?: number): Promise<Executed> => {
  // git must see the new folder only, whatever repository a hook or a worktree points it to.
  const { GIT_DIR: _dir, GIT_WORK_TREE: _tree, GIT_INDEX_FILE: _index, ...env } = process.env
  const child = Bun.spawn(command, {
    cwd,
    env: { ...env, GIT_TERMINAL_PROMPT: "0" },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    ...(timeoutMs === undefined ? {} : { timeout: timeoutMs }),
  })
  const [stdout, stderr, exitCode] = await Promise.all([
    child.stdout.text(),
    child.stderr.text(),
    child.exited,
  ])
  const hasTimedOut = timeoutMs !== undefined && child.signalCode !== null
  return { exitCode, output: `${stdout}${stderr}`, hasTimedOut }
}

const reasonOf = (cause: unknown): string =>
  cause instanceof Error ? cause.message : String(cause)

/** Paths of one set of prebuilt libraries. A process loads exactly one set. */
export interface PrebuiltLibraries {
  /** Folder of them all; ggml looks for its backends here. */
  readonly dir: string
  readonly ggmlBase: string
  readonly ggml: string
  readonly llama: string
  /** Upstream's helpers for its tools; only the peers of the tests need it. Not in packages before 3.19.0. */
  readonly llamaCommon: string | undefined
  /** One or more per device kind, such as `libggml-cpu-haswell.so`; ggml picks the best of a kind. */
  readonly backends: ReadonlyArray<string>
}

/**
 * Library files of an installed set.
 *
 * @throws {PrebuiltMissingError} when the package, or one of its libraries, is not there
 */
export const prebuiltLibraries = (variant: Variant = "base"): PrebuiltLibraries =>
  librariesIn(prebuiltDir(variant), prebuiltPackage(variant), packageVersion)

/**
 * Library files in the folder of a set. Their names differ: `libllama.v0.5.0.so`,
 * `libllama.cuda.v0.5.0.so`, `libllama.b6673.so`.
 *
 * @throws {PrebuiltMissingError} when one is not there
 */
export const librariesIn = (
  dir: string,
  packageName: string,
  version: string,
): PrebuiltLibraries => {
  const names = readdirSync(dir).sort()
  const find = (pattern: RegExp): string | undefined => {
    const name = names.find((candidate) => pattern.test(candidate))
    return name === undefined ? undefined : join(dir, name)
  }
  const one = (pattern: RegExp): string => {
    const path = find(pattern)
    if (path !== undefined) return path
    throw new PrebuiltMissingError({
      packageName,
      message: `${dir} holds no library that matches ${pattern.source}: reinstall ${packageName}@${version}.`,
    })
  }
  const suffix = String.raw`(\.[a-z]+)?(\.(v[\d.]+|b\d+))?\.(so|dylib|dll)$`
  return {
    dir,
    ggmlBase: one(new RegExp(`^(lib)?ggml-base${suffix}`)),
    ggml: one(new RegExp(`^(lib)?ggml${suffix}`)),
    llama: one(new RegExp(`^(lib)?llama${suffix}`)),
    llamaCommon: find(new RegExp(`^(lib)?llama-common${suffix}`)),
    backends: names
      .filter((name) => /^(lib)?ggml-(?!base)[\w.-]+\.(so|dylib|dll)$/.test(name))
      .map((name) => join(dir, name)),
  }
}
