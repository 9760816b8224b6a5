/** The package.json of a published package, made from that of its workspace. */
import {
  type Platform,
  packageVersion,
  platformPackage,
  prebuiltPackage,
} from "../../packages/native/src/prebuilt.ts"
import { bunVersion, type Manifest, published, rootManifest, type Workspace } from "./workspaces.ts"

/** Those that upstream's libraries are prebuilt for. The shim of one is built where it runs. */
export const platforms: ReadonlyArray<Platform> = [
  { os: "linux", cpu: "x64" },
  { os: "linux", cpu: "arm64" },
  { os: "darwin", cpu: "arm64" },
  { os: "darwin", cpu: "x64" },
]

/** `./src/x.ts` → `./dist/src/x` */
const builtStem = (source: string): string => source.replace("./", "./dist/").replace(/\.ts$/, "")

/** Beside a module that needs Bun: the same names, and an error that says so. */
export const needsBunFile = (source: string): string => `${builtStem(source)}.needs-bun.js`

export const runsInNode = ({ engines }: Manifest): boolean => engines.node !== undefined

type Conditions = Readonly<Record<string, string>>

const exportOf = (manifest: Manifest, source: string): string | Conditions => {
  if (!source.endsWith(".ts")) return source
  const stem = builtStem(source)
  const types = { types: `${stem}.d.ts` }
  return runsInNode(manifest)
    ? { ...types, default: `${stem}.js` }
    : { ...types, bun: `${stem}.js`, default: needsBunFile(source) }
}

/** What every published package says alike. */
const common = (workspace: Workspace) => {
  const { name, version, description, keywords, license } = workspace.manifest
  return {
    name,
    version,
    description,
    ...(keywords === undefined ? {} : { keywords }),
    license,
    repository: {
      type: "git",
      url: `git+${rootManifest.repository}.git`,
      directory: `packages/${workspace.shortName}`,
    },
    homepage: `${rootManifest.repository}#readme`,
    bugs: `${rootManifest.repository}/issues`,
  }
}

/** Of a library. */
export const libraryManifest = (workspace: Workspace): object => {
  const { manifest, shortName } = workspace
  const dependencies = { ...published(manifest.dependencies, manifest.version) }
  // The workspace builds with it; who installs the package needs cmake alone.
  delete (dependencies as Record<string, string>)["cmake-js"]
  return {
    ...common(workspace),
    type: "module",
    sideEffects:
      manifest.sideEffects === false || manifest.sideEffects === undefined
        ? false
        : manifest.sideEffects.map((source) => `${builtStem(source)}.js`),
    engines: manifest.engines,
    ...(manifest.os === undefined ? {} : { os: manifest.os }),
    exports: {
      ...Object.fromEntries(
        Object.entries(manifest.exports).map(([door, source]) => [
          door,
          exportOf(manifest, source),
        ]),
      ),
      "./package.json": "./package.json",
    },
    files: ["dist", ...(shortName === "native" ? ["shim", "headers", "CMakeLists.txt"] : [])],
    ...(Object.keys(dependencies).length === 0 ? {} : { dependencies }),
    ...(shortName === "native"
      ? { optionalDependencies: platformDependencies(manifest.version) }
      : {}),
  }
}

/** Not upstream's packages themselves: npm would install the one for arm64 on x64 as well. */
const platformDependencies = (version: string) =>
  Object.fromEntries(platforms.map((platform) => [platformPackage(platform), version]))

/** Of `ggml-rpc`, a bundle: it depends on libraries of the platform, and on Bun. */
export const programManifest = (workspace: Workspace): object => {
  const { manifest } = workspace
  return {
    ...common(workspace),
    type: "module",
    sideEffects: true,
    engines: manifest.engines,
    ...(manifest.os === undefined ? {} : { os: manifest.os }),
    bin: { "ggml-rpc": "dist/launcher.sh" },
    exports: {
      "./demo-model": {
        types: "./dist/demo-model/index.d.ts",
        default: "./dist/demo-model/index.js",
      },
      "./package.json": "./package.json",
    },
    files: ["dist", "native", "THIRD-PARTY-LICENSES.md"],
    optionalDependencies: { ...platformDependencies(manifest.version), bun: bunVersion },
  }
}

/** Of the package of a platform; `glibc` where it holds a shim that needs one. */
export const platformManifest = (
  native: Workspace,
  platform: Platform,
  glibc: string | undefined,
): object => ({
  ...common(native),
  name: platformPackage(platform),
  description: `The native part of ggml-rpc for ${platform.os} on ${platform.cpu}${glibc === undefined ? "" : `, with glibc ${glibc} or newer`}`,
  os: [platform.os],
  cpu: [platform.cpu],
  ...(platform.os === "linux" ? { libc: ["glibc"] } : {}),
  files: ["lib"],
  // Optional, or a package manager that resolves all platforms would need each of them.
  optionalDependencies: { [prebuiltPackage("base", platform)]: packageVersion },
})
