/** A registry on loopback that has the packages of this repository, as `bun run build` makes them, and all others of the real one. */
import { mkdirSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { type StagedPackage, stageAll } from "../../scripts/publish/stage.ts"
import { runProcess, startServer } from "../peers/process.ts"

export interface Registry extends AsyncDisposable {
  readonly url: string
  readonly packages: ReadonlyArray<StagedPackage>
}

const config = (folder: string, upstream: string): string => `
storage: ${folder}/storage
auth: { htpasswd: { file: ${folder}/htpasswd } }
uplinks:
  real: { url: ${JSON.stringify(upstream)}, timeout: 60s, max_fails: 10, fail_timeout: 1s }
packages:
  "@ggml-rpc/*": { access: $all, publish: $all, unpublish: $all }
  "ggml-rpc": { access: $all, publish: $all, unpublish: $all }
  "**": { access: $all, proxy: real }
max_body_size: 64mb
log: { type: stdout, level: error }
`

const upstreamRegistry = async (): Promise<string> => {
  const { stdout } = await runProcess(["npm", "config", "get", "registry"])
  return stdout.trim()
}

/** What npm and Bun read in a home or a project. Publishing needs a token, of whatever text. */
export const npmrc = (url: string): string =>
  [
    `registry=${url}`,
    `//${new URL(url).host}/:_authToken=any`,
    ...["audit=false", "fund=false", "update-notifier=false", ""],
  ].join("\n")

const verdaccio = join(import.meta.dir, "..", "node_modules", "verdaccio", "bin", "verdaccio")

/** Builds the packages in `folder`, starts a registry there, and publishes them to it in their order. */
export const startRegistry = async (folder: string): Promise<Registry> => {
  const packages = await stageAll(join(folder, "packages"))
  const home = join(folder, "registry")
  mkdirSync(home, { recursive: true })
  const configPath = join(home, "config.yaml")
  writeFileSync(configPath, config(home, await upstreamRegistry()))
  const server = await startServer(
    (port) => ["node", verdaccio, "--config", configPath, "--listen", `127.0.0.1:${port}`],
    { cwd: home, env: { HOME: home } },
  )
  const url = `http://${server.endpoint}/`
  writeFileSync(join(home, ".npmrc"), npmrc(url))
  for (const { name, folder: staged } of packages) {
    const { exitCode, stdout, stderr } = await runProcess([process.execPath, "publish"], {
      cwd: staged,
      env: {
        HOME: home,
        BUN_INSTALL_CACHE_DIR: join(home, "cache"),
        NPM_CONFIG_USERCONFIG: join(home, ".npmrc"),
      },
    })
    if (exitCode !== 0) throw new Error(`${name} could not be published:\n${stdout}${stderr}`)
  }
  return { url, packages, [Symbol.asyncDispose]: () => server.stop() }
}

export const folderOf = (packages: ReadonlyArray<StagedPackage>, name: string): string => {
  const found = packages.find((staged) => staged.name === name)
  if (found === undefined) throw new Error(`no package ${name} is staged`)
  return found.folder
}

/** Folder of an installed package. */
export const installed = (project: string, name: string): string =>
  dirname(join(project, "node_modules", name, "package.json"))
