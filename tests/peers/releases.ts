/**
 * llama.cpp releases, one of each protocol version that a published `node-llama-cpp` carries: the source
 * in that package, and the libraries that `@node-llama-cpp/linux-x64` of the same version was published
 * with. The older ones are fetched at the first use and kept in {@link releaseFolder}.
 */
import { join } from "node:path"
import {
  buildRoot,
  ensurePackage,
  ensureSource,
  librariesIn,
  type PinnedPackage,
  type PrebuiltLibraries,
  pinnedRelease,
  prebuiltLibraries,
  type SourceRelease,
} from "@ggml-rpc/native/source"

/** `MAJOR.MINOR.PATCH` in that release's `ggml-rpc.h`. */
export type ReleaseProtocol =
  | "2.0.0"
  | "3.0.0"
  | "3.6.0"
  | "3.6.1"
  | "4.0.1"
  | "5.0.0"
  | "6.0.0"
  | "7.0.0"

export interface Release extends SourceRelease {
  readonly protocol: ReleaseProtocol
  /** Its libraries for Linux on x64, or those that this workspace depends on. */
  readonly prebuilt: PinnedPackage | "installed"
}

const older = (row: {
  readonly version: string
  readonly llamaVersion: string
  readonly protocol: ReleaseProtocol
  /** Checksum of `node-llama-cpp`. */
  readonly source: string
  /** Checksum of `@node-llama-cpp/linux-x64`. */
  readonly prebuilt: string
}): Release => ({
  package: { name: "node-llama-cpp", version: row.version, integrity: row.source },
  llamaVersion: row.llamaVersion,
  protocol: row.protocol,
  prebuilt: { name: "@node-llama-cpp/linux-x64", version: row.version, integrity: row.prebuilt },
})

/** The release that this workspace is built from. */
export const newestRelease: Release = { ...pinnedRelease, protocol: "7.0.0", prebuilt: "installed" }

/** Oldest first. */
export const releases: ReadonlyArray<Release> = [
  older({
    version: "3.14.0",
    llamaVersion: "b6673",
    protocol: "2.0.0",
    source:
      "sha512-k6scfmM2zAQVqDAn3HYB+dq/Dl7Mj7SQyPv7TVRZxS7rbkl+P8u44MKXYYkzdU2GD5TcWdkApJ1Facu5Pzlqxg==",
    prebuilt:
      "sha512-flqBnK0PQcdrQQA/+eNl+nCJyXWpqItdkiPdiE9MxpF6PVoU07lBupkf/s3vXZpLC2ZU+8y/5me36tB4JGH23A==",
  }),
  older({
    version: "3.14.2",
    llamaVersion: "b6845",
    protocol: "3.0.0",
    source:
      "sha512-g3EttYX6VqdP55JS4ZBWnh6loWM7RBwxffPoeQvUJl1VTZ1MoubAMLzL6DUaXRoXtIilxEAFNdVVXJx6AKAVNQ==",
    prebuilt:
      "sha512-gjDw2WVoSHmqq+QS4uyp0WNOyGklFndhqnxyXNtIwQj+4Zpp4+2+DI6pubGuNcbmU57pICCwu39em5rpjGPm5g==",
  }),
  older({
    version: "3.15.0",
    llamaVersion: "b7698",
    protocol: "3.6.0",
    source:
      "sha512-xQKl+MvKiA5QNi/CTwqLKMos7hefhRVyzJuNIAEwl7zvOoF+gNMOXEsR4Ojwl7qvgpcjsVeGKWSK3Rb6zoUP1w==",
    prebuilt:
      "sha512-etUuTqSyNefRObqc5+JZviNTkuef2XEtHcQLaamEIWwjI1dj7nTD2YMZPBP7H3M3E55HSIY82vqCQ1bp6ZILiA==",
  }),
  older({
    version: "3.18.1",
    llamaVersion: "b8390",
    protocol: "3.6.1",
    source:
      "sha512-w0zfuy/IKS2fhrbed5SylZDXJHTVz4HnkwZ4UrFPgSNwJab3QIPwIl4lyCKHHy9flLrtxsAuV5kXfH3HZ6bb8w==",
    prebuilt:
      "sha512-tRmWcsyvAcqJHQHXHsaOkx6muGbcirA9nRdNgH6n7bjGUw4VuoBD3dChyNF3/Ktt7ohB9kz+XhhyZjbDHpXyMA==",
  }),
  older({
    version: "3.19.0",
    llamaVersion: "b9842",
    protocol: "4.0.1",
    source:
      "sha512-OZKc6IUsu6pNRPFKV0vgqJmagbGWFPhVsrMIj4pdxcglcSzDwzX5TmaIlikT6Ue9081uXOsocPFUBERHgHgJvg==",
    prebuilt:
      "sha512-cFnXjyRmFJ+lVq0QQFqflGDdF5UnMPzHLIQ4i2Xg5526QpWOw3IC0APiZluKvyqXCtU+g44ZH4YPQNUKqsZG6A==",
  }),
  older({
    version: "3.20.0",
    llamaVersion: "b10361",
    protocol: "5.0.0",
    source:
      "sha512-KnET3ttADYLCobjMnMTLkWkLt87rPRDhNzTZgGOCt8m8yTmdQW2sfLNmulGBA9laFvcyRIMOsgQST8lunPmMgw==",
    prebuilt:
      "sha512-zCSTd5m4MDrLWzgUvOvuGGzHm9DiEONZt+srgHYhV4Ppu/T5TL3kENj7lHY1cmQccKNgepABiyb9KcigjZbvSQ==",
  }),
  older({
    version: "3.21.1",
    llamaVersion: "v0.4.0",
    protocol: "6.0.0",
    source:
      "sha512-E3N0Ev2Va0wzydvXYFwM9Hvyo07PoWjt8T/9GMc43Cvt8YkV/NU/tYUgEMC1grTPv2o9PRjQi0G3Wb5P/awiMg==",
    prebuilt:
      "sha512-Totj6RTDMGo3FoK2yNUaz/oGmZD0olAqTrRluFUWmu0kW2i9TOzHSW0OWCAiGkzRCVX0WsU2CyUQo/W2NYtdPA==",
  }),
  newestRelease,
]

/**
 * The release that speaks a protocol version.
 *
 * @throws {Error} when the table has none
 */
export const releaseOf = (protocol: ReleaseProtocol): Release => {
  const release = releases.find((candidate) => candidate.protocol === protocol)
  if (release === undefined) throw new Error(`No release speaks ${protocol}.`)
  return release
}

const usualProtocols: ReadonlyArray<ReleaseProtocol> = ["2.0.0", "3.6.0", "7.0.0"]

/**
 * The releases that tests try, oldest first: the oldest, one from the middle and the newest; all with
 * `GGML_RPC_ALL_RELEASES=1`. On other machines than Linux on x64, the newest alone.
 */
export const enabledReleases = (): ReadonlyArray<Release> => {
  if (process.platform !== "linux" || process.arch !== "x64") return [newestRelease]
  if (process.env.GGML_RPC_ALL_RELEASES === "1") return releases
  return usualProtocols.map(releaseOf)
}

/**
 * Folder of an older release's source, libraries and peers, in `releases` of `GGML_RPC_BUILD_DIR`, else of
 * `tests/build`. It may be copied: nothing in it names where it lies.
 */
export const releaseFolder = (release: Release): string => {
  const root = process.env.GGML_RPC_BUILD_DIR ? buildRoot() : join(import.meta.dir, "..", "build")
  return join(root, "releases", release.package.version)
}

// Headers, the RPC backend and its server: 3 MB of 40, and what the peers are compiled from.
const neededSource = [
  ...["include", "ggml/include", ":(glob)ggml/src/*", "ggml/src/ggml-rpc", "tools/rpc"],
]

/**
 * Folder of a release's llama.cpp source: of an older one the headers and all about RPC, no more.
 *
 * @throws {SourceError} see `@ggml-rpc/native/source`
 */
export const ensureReleaseSource = (release: Release): Promise<string> =>
  release.prebuilt === "installed"
    ? ensureSource()
    : ensureSource({
        release,
        target: join(releaseFolder(release), "source"),
        pathspecs: neededSource,
      })

/**
 * A release's prebuilt libraries.
 *
 * @throws {SourceError | PrebuiltMissingError} see `@ggml-rpc/native/source`
 */
export const ensureReleaseLibraries = async (release: Release): Promise<PrebuiltLibraries> => {
  const { prebuilt } = release
  if (prebuilt === "installed") return prebuiltLibraries()
  const folder = await ensurePackage(prebuilt, join(releaseFolder(release), "prebuilt"))
  return librariesIn(join(folder, "bins", "linux-x64"), prebuilt.name, prebuilt.version)
}
