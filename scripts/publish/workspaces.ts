/** The packages of this repository that are published, as their workspaces describe them. */
import { readFileSync } from "node:fs"
import { join } from "node:path"

export const root = join(import.meta.dir, "..", "..")

type Names = Readonly<Record<string, string>>

/** The fields of a workspace's package.json that become a published one. */
export interface Manifest {
  readonly name: string
  readonly version: string
  readonly description: string
  readonly keywords?: ReadonlyArray<string>
  readonly license: string
  readonly type: "module"
  readonly sideEffects?: false | ReadonlyArray<string>
  readonly engines: Names
  readonly os?: ReadonlyArray<string>
  readonly bin?: Names
  readonly exports: Names
  readonly dependencies?: Names
  readonly optionalDependencies?: Names
}

export interface Workspace {
  /** Absolute. */
  readonly folder: string
  /** Its folder's name in `packages`. */
  readonly shortName: string
  readonly manifest: Manifest
}

interface RootManifest {
  readonly packageManager: string
  readonly repository: string
  readonly workspaces: { readonly catalog: Names }
}

const readJson = <A>(path: string): A => JSON.parse(readFileSync(path, "utf8")) as A

export const rootManifest = readJson<RootManifest>(join(root, "package.json"))

/** The Bun that everything here is made for. */
export const bunVersion = rootManifest.packageManager.replace("bun@", "")

/** In an order in which they can be published: none depends on a later one. */
export const workspaces: ReadonlyArray<Workspace> = [
  "protocol",
  "gguf",
  "native",
  "models",
  "chat",
  "server",
  "client",
  "api",
  "cli",
].map((shortName) => {
  const folder = join(root, "packages", shortName)
  return { folder, shortName, manifest: readJson<Manifest>(join(folder, "package.json")) }
})

/** The same as they would be of another version, of which all of them are. */
export const workspacesAt = (version: string | undefined): ReadonlyArray<Workspace> =>
  version === undefined
    ? workspaces
    : workspaces.map((workspace) => ({
        ...workspace,
        manifest: { ...workspace.manifest, version },
      }))

/** Dependencies as a registry knows them, without `catalog:`, and with `version` for `workspace:`. */
export const published = (dependencies: Names = {}, version: string): Names =>
  Object.fromEntries(
    Object.entries(dependencies).map(([name, range]) => {
      if (range === "catalog:") return [name, rootManifest.workspaces.catalog[name]!]
      if (range.startsWith("workspace:")) return [name, version]
      return [name, range]
    }),
  )
