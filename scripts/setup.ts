#!/usr/bin/env bun
/**
 * Everything that must be there before anything else runs: `bun run setup`, and the first step of
 * `bun run demo` and `bun run check`. Installs the packages, builds the native shim and bundles the
 * program; a tenth of a second when all is there already.
 *
 * Uses Bun's built-ins only: the packages are what it installs. The build is a second process, since the
 * first one looked for packages while there were none.
 */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"

const root = join(import.meta.dir, "..")

interface Tool {
  /** Any of these programs will do. */
  readonly programs: ReadonlyArray<string>
  readonly purpose: string
  readonly debianPackage: string
}

const compilers = [...(process.env.CXX ? [process.env.CXX] : []), "c++", "g++", "clang++"]

const tools: ReadonlyArray<Tool> = [
  { programs: ["node"], purpose: "runs cmake-js", debianPackage: "nodejs" },
  { programs: ["npm"], purpose: "fetches the llama.cpp source", debianPackage: "npm" },
  { programs: ["git"], purpose: "unpacks the llama.cpp source", debianPackage: "git" },
  { programs: ["cmake"], purpose: "builds the native shim", debianPackage: "cmake" },
  { programs: compilers, purpose: "compiles the native shim", debianPackage: "g++" },
]

const fail = (message: string): never => {
  console.error(message)
  process.exit(1)
}

/** The Bun that this repository is made for: an older one lacks things in ways that are hard to read. */
const checkBun = (): void => {
  const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
    readonly packageManager: string
  }
  const wanted = manifest.packageManager.replace("bun@", "")
  if (Bun.semver.order(Bun.version, wanted) < 0) {
    fail(
      `This is Bun ${Bun.version}, but Bun ${wanted} or newer is needed: run 'npx -y bun@${wanted} run …', or 'bun upgrade'.`,
    )
  }
}

/** All that is missing at once, before a first build goes half of its way. */
const checkTools = (): void => {
  const buildFolder = process.env.GGML_RPC_BUILD_DIR || join(root, "packages", "native", "build")
  if (existsSync(join(buildFolder, "shim"))) return
  const missing = tools.filter(
    ({ programs }) => !programs.some((program) => Bun.which(program) !== null),
  )
  if (missing.length === 0) return
  const list = missing.map(({ programs, purpose }) => `${programs[0]} (${purpose})`).join(", ")
  const packages = missing.map(({ debianPackage }) => debianPackage).join(" ")
  fail(`Not on PATH: ${list}. Install them first; on Debian or Ubuntu: apt-get install ${packages}`)
}

/** Runs Bun itself on `args`, quietly unless it fails. */
const bun = async (args: ReadonlyArray<string>): Promise<string | undefined> => {
  const child = Bun.spawn([process.execPath, ...args], {
    cwd: root,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  })
  const [stdout, stderr, exitCode] = await Promise.all([
    child.stdout.text(),
    child.stderr.text(),
    child.exited,
  ])
  return exitCode === 0 ? undefined : `${stdout}${stderr}`.trim()
}

const install = async (): Promise<void> => {
  if (!existsSync(join(root, "node_modules"))) console.error("setup: installing the packages")
  const problem = await bun(["install", "--frozen-lockfile"])
  if (problem !== undefined) {
    fail(
      `${problem}\nThe packages could not be installed: check the network and the registry setting of npm, then run this again.`,
    )
  }
}

/** Says something only when there is something to build, which takes half a minute. */
const buildShims = async (): Promise<void> => {
  const { ensureShim } = await import("../packages/native/scripts/build.ts")
  const { librarySet, librarySets } = await import("../packages/native/src/libraries.ts")
  const started = performance.now()
  let hasBuilt = false
  const say = (line: string): void => {
    hasBuilt = true
    console.error(`setup: ${line}`)
  }
  try {
    const sets = librarySets()
    // Of none at all it says what to install.
    for (const set of sets.length > 0 ? sets : [librarySet()]) await ensureShim(set, say)
  } catch (error) {
    fail(error instanceof Error ? error.message : String(error))
  }
  if (hasBuilt) say(`built in ${((performance.now() - started) / 1000).toFixed(1)} s`)
}

const bundleProgram = async (): Promise<void> => {
  const { ensureBundle } = await import("../packages/cli/scripts/bundle.ts")
  await ensureBundle()
}

/** The second step sees the packages that the first one installed. */
const startSecondStep = async (): Promise<void> => {
  const child = Bun.spawn([process.execPath, import.meta.path, secondStep], {
    cwd: root,
    stdin: "ignore",
    stdout: "inherit",
    stderr: "inherit",
  })
  const exitCode = await child.exited
  if (exitCode !== 0) process.exit(exitCode)
}

const secondStep = "--build"

if (process.argv[2] === secondStep) {
  await buildShims()
  await bundleProgram()
} else {
  checkBun()
  checkTools()
  await install()
  await startSecondStep()
}
