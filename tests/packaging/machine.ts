/** A user's machine: an empty home, a PATH with the named programs alone, and projects that install from a registry. */
import { lstatSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { type FinishedProcess, runProcess, type StartOptions } from "../peers/process.ts"
import { npmrc } from "./registry.ts"

export interface Machine {
  readonly home: string
  /** For `startProcess`: nothing of this process's own environment that a program might look at. */
  readonly env: Record<string, string | undefined>
  /** A folder with these files, `package.json` among them unless given. */
  readonly project: (name: string, files?: Readonly<Record<string, string>>) => string
  readonly run: (
    command: ReadonlyArray<string>,
    options: StartOptions & { readonly timeoutMs?: number },
  ) => Promise<FinishedProcess>
}

const own = ["GGML_RPC_", "npm_", "NPM_", "BUN_", "XDG_", "NODE"]

const withoutOwn = (): Record<string, undefined> =>
  Object.fromEntries(
    Object.keys(process.env)
      .filter((name) => own.some((start) => name.startsWith(start)))
      .map((name) => [name, undefined]),
  )

/** `programs` are found on this process's PATH. */
export const makeMachine = (
  folder: string,
  registry: string,
  programs: ReadonlyArray<string>,
): Machine => {
  // bunx keeps what it has installed among the temporary files.
  const [home, bin, temporary] = [join(folder, "home"), join(folder, "bin"), join(folder, "tmp")]
  for (const made of [home, bin, temporary]) mkdirSync(made, { recursive: true })
  for (const program of programs) {
    const path = program === "bun" ? process.execPath : Bun.which(program)
    if (path === null) throw new Error(`${program} is not on PATH`)
    symlinkSync(path, join(bin, program))
    if (program === "bun") symlinkSync(path, join(bin, "bunx"))
  }
  writeFileSync(join(home, ".npmrc"), npmrc(registry))
  const env = { ...withoutOwn(), HOME: home, PATH: bin, TMPDIR: temporary }
  return {
    home,
    env,
    project: (name, files = {}) => {
      const project = join(folder, name)
      const all = { "package.json": '{ "private": true, "type": "module" }\n', ...files }
      for (const [path, text] of Object.entries(all)) {
        mkdirSync(join(project, path, ".."), { recursive: true })
        writeFileSync(join(project, path), text)
      }
      return project
    },
    run: (command, options) => runProcess(command, { ...options, env: { ...env, ...options.env } }),
  }
}

/** What a folder takes, hard links once, as `du -b` counts it. */
export const sizeOf = (folder: string): number => {
  const seen = new Set<string>()
  let size = 0
  for (const path of readdirSync(folder, { recursive: true, encoding: "utf8" })) {
    const { dev, ino, size: bytes } = lstatSync(join(folder, path))
    if (seen.has(`${dev}:${ino}`)) continue
    seen.add(`${dev}:${ino}`)
    size += bytes
  }
  return size
}
