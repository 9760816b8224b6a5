/*
 * Every version that is spoken, and the only place where versions are compared. A new version is a file beside this one and
 * an entry in the list; docs/protocol-versions.md says how.
 */
import type { Numbering } from "./numbering.ts"
import type { ProtocolSpec, Version } from "./spec.ts"
import { formatVersion, shortVersion } from "./spec.ts"
import { v2_0 } from "./v2_0.ts"
import { v3_0 } from "./v3_0.ts"
import { v3_5 } from "./v3_5.ts"
import { v3_6 } from "./v3_6.ts"
import { v4_0 } from "./v4_0.ts"
import { v5_0 } from "./v5_0.ts"
import { v5_1 } from "./v5_1.ts"
import { v6_0 } from "./v6_0.ts"
import { v7_0 } from "./v7_0.ts"
import { v8_0 } from "./v8_0.ts"

export { ops101 as libraryNumbering } from "./numbering.ts"
export { v8_0 as newest } from "./v8_0.ts"

/** All versions that these packages speak, newest first. */
export const versions: readonly ProtocolSpec[] = [
  ...[v8_0, v7_0, v6_0, v5_1, v5_0, ...v4_0, ...v3_6, v3_5, v3_0, v2_0],
]

const first = versions[0]!
const last = versions[versions.length - 1]!

const rangeOf = (specs: readonly ProtocolSpec[]): string =>
  `${shortVersion(specs[specs.length - 1]!.version)} to ${shortVersion(specs[0]!.version)}`

/** `"2.0 to 8.0"`, for messages. */
export const versionRange = rangeOf(versions)

/** The versions whose HELLO carries capabilities, or not, for messages: `"4.0 to 8.0"`. */
export const helloRange = (helloCaps: boolean): string =>
  rangeOf(versions.filter(({ features }) => features.helloCaps === helloCaps))

/** The version of that name: `"7"`, `"7.0"` or `"7.0.0"`, the newest that fits; `undefined` when none does. */
export const findVersion = (name: string): ProtocolSpec | undefined =>
  versions.find(({ version }) => `${formatVersion(version)}.`.startsWith(`${name}.`))

/** A version whose clients ignore the patch: any of its numberings may come. */
const anyPatch = (patches: readonly [ProtocolSpec, ...ProtocolSpec[]]): ProtocolSpec => ({
  ...patches[patches.length - 1]!,
  numberings: [...new Set(patches.toReversed().flatMap(({ numberings }) => numberings))],
  patches,
})

/** What all builds of a version with this numbering understand: the oldest of its patches that has it, or the version itself. */
export const buildOf = (spec: ProtocolSpec, numbering: Numbering): ProtocolSpec =>
  spec.patches?.findLast(({ numberings }) => numberings.includes(numbering)) ?? spec

const offersWithCaps: readonly ProtocolSpec[] = [v8_0, v7_0, v6_0, v5_0, anyPatch(v4_0)]
const offersWithoutCaps: readonly ProtocolSpec[] = [anyPatch(v3_6), v3_5, v3_0, v2_0]

/**
 * What a server announces to a client whose HELLO tells no more than whether it has capabilities (24 bytes): the first, and
 * the next one each time the client hangs up. Each stands for all clients that accept it and no earlier one: 5.0 for 5.1 too,
 * whose one difference is what a client may leave out.
 */
export const offers = (helloCaps: boolean): readonly ProtocolSpec[] =>
  helloCaps ? offersWithCaps : offersWithoutCaps

/** One of the builds of an offer that stands for several: with a number of operations, the patch that has it. */
const buildsOf = (offer: ProtocolSpec): readonly ProtocolSpec[] => {
  const counts = new Set(offer.numberings.map(({ ops }) => ops.length))
  if (counts.size < 2) return []
  return [...counts].map((count) => {
    const has = (spec: ProtocolSpec): boolean =>
      spec.version.major === offer.version.major &&
      spec.version.minor === offer.version.minor &&
      spec.numberings.every(({ ops }) => ops.length === count)
    const numberings = offer.numberings.filter(({ ops }) => ops.length === count)
    return { ...(versions.find(has) ?? offer), numberings }
  })
}

const allOffers: readonly ProtocolSpec[] = [...offersWithCaps, ...offersWithoutCaps]
const builds: readonly ProtocolSpec[] = allOffers.flatMap(buildsOf)

/** All that `findOffer` may give. */
export const servable: readonly ProtocolSpec[] = [...allOffers, ...versions, ...builds]

/**
 * The version to serve under a name as `findVersion` takes it; without a patch, that of any patch. With `@` and a number of
 * operations, such as `3.0@94`, that of the builds which have so many.
 */
export const findOffer = (name: string): ProtocolSpec | undefined => {
  const [version = "", count] = name.split("@")
  const isNamed = (spec: ProtocolSpec): boolean =>
    `${formatVersion(spec.version)}.`.startsWith(`${version}.`)
  if (count !== undefined) {
    return builds.find((spec) => isNamed(spec) && String(spec.numberings[0]!.ops.length) === count)
  }
  const isWhole = version.split(".").length > 2
  return (isWhole ? undefined : allOffers.find(isNamed)) ?? findVersion(version)
}

/** The version to speak with a server, or one sentence for people why there is none. */
export type Selection = { readonly spec: ProtocolSpec } | { readonly refusal: string }

/** Numbers whose bytes are not known, and who uses them; one becomes a table when they are. */
const unread: readonly { readonly major: number; readonly minor?: number; readonly by: string }[] =
  [
    { major: 9, minor: 0, by: "llama.cpp v1.0's" },
    { major: 9, minor: 1, by: "a fork's own" },
    { major: 107, by: "a fork's own" },
    { major: 108, by: "a fork's own" },
  ]

/**
 * Chooses how to speak with a server that announced a version. An allow-list: only a version with a table is spoken, since
 * a patch may move every operation's number, and forks announce numbers of their own.
 */
export const select = (version: Version): Selection => {
  const spec = versions.find((candidate) => isSame(candidate.version, version))
  return spec === undefined ? { refusal: refusalOf(version) } : { spec }
}

const isSame = (a: Version, b: Version): boolean =>
  a.major === b.major && a.minor === b.minor && a.patch === b.patch

const refusalOf = (version: Version): string => {
  const { major } = version
  const theirs = `the server speaks protocol ${formatVersion(version)}`
  const ours = `this client ${versionRange}`
  const instead = `run the server of ${first.releases} there, or 'ggml-rpc serve'`
  const user = unread.find((entry) => entry.major === major && matches(entry.minor, version.minor))
  if (user !== undefined) return `${theirs}, which is ${user.by}, and ${ours}: ${instead}`
  if (major < last.version.major) {
    return `${theirs}, and ${ours}: the server is too old, so update it, or run 'ggml-rpc serve' there`
  }
  const known = versions.find((spec) => spec.version.major === major)
  return known !== undefined && isLater(version, known.version)
    ? `${theirs}, and ${ours}, where ${formatVersion(known.version)} is the last of ${major}: a later one may number operations otherwise, so update this client, or ${instead}`
    : `${theirs}, which this client does not know, and ${ours}: if a newer llama.cpp runs there, update this client, and if it is a fork, ${instead}`
}

const matches = (minor: number | undefined, seen: number): boolean =>
  minor === undefined || minor === seen

/** Whether `a` came after `b`, of the same major. */
const isLater = (a: Version, b: Version): boolean =>
  a.minor === b.minor ? a.patch > b.patch : a.minor > b.minor
