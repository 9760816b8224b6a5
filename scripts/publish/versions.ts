/** The next version, from what the changelog says has changed. */

export type Bump = "major" | "minor" | "patch"

export interface Release {
  readonly version: string
  /** undefined for the first release, whose version the packages have already. */
  readonly bump: Bump | undefined
  /** What the changelog says of it, without the heading. */
  readonly notes: string
  /** The changelog with the heading of this version in place of `Unreleased`. */
  readonly changelog: string
}

/** The changelog does not say what is released. */
export class ChangelogError extends Error {
  override readonly name = "ChangelogError"
}

const heading = "## Unreleased"

/** `Removed` and `Breaking` break programs, `Added` and `Changed` give them something, the rest mends. */
const bumpOf = (notes: string): Bump => {
  const kinds = new Set([...notes.matchAll(/^### (\w+)/gm)].map(([, kind]) => kind!.toLowerCase()))
  if (kinds.has("removed") || kinds.has("breaking")) return "major"
  return kinds.has("added") || kinds.has("changed") ? "minor" : "patch"
}

/** By Semantic Versioning, which lets 0.y.z break with y. */
export const increase = (version: string, bump: Bump): string => {
  const [major = 0, minor = 0, patch = 0] = version.split(".").map(Number)
  if (bump === "patch") return `${major}.${minor}.${patch + 1}`
  if (bump === "minor" || major === 0) return `${major}.${minor + 1}.0`
  return `${major + 1}.0.0`
}

/**
 * What a release of the section `Unreleased` would be.
 *
 * @param current version of the packages
 * @param date of the heading, as 2026-01-31
 * @throws {ChangelogError}
 */
export const releaseOf = (changelog: string, current: string, date: string): Release => {
  const start = changelog.indexOf(`${heading}\n`)
  if (start < 0) throw new ChangelogError(`CHANGELOG.md has no '${heading}' to release.`)
  const after = start + heading.length
  const next = changelog.indexOf("\n## ", after)
  const notes = changelog.slice(after, next < 0 ? undefined : next).trim()
  if (!/^- /m.test(notes)) {
    throw new ChangelogError(`CHANGELOG.md tells of no change under '${heading}'.`)
  }
  const isFirst = !new RegExp(`^## ${current.replaceAll(".", "\\.")}\\b`, "m").test(changelog)
  const bump = isFirst ? undefined : bumpOf(notes)
  const version = bump === undefined ? current : increase(current, bump)
  const released = `${heading}\n\n## ${version} - ${date}`
  return {
    version,
    bump,
    notes,
    changelog: changelog.slice(0, start) + released + changelog.slice(after),
  }
}
