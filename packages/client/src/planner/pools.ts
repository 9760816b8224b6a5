/** Memory that several devices draw from: what one of them takes, the others have no more. */
import { type PlannerInput, sum } from "./types.ts"

/** The place of this host among the members of a pool. */
export const HOST = -1

export interface Pool {
  /** Indexes of devices, and `HOST`; two at least. */
  readonly members: ReadonlyArray<number>
  readonly freeBytes: number
  /** All its members are in another pool, too: they are devices of one server, which may have a limit of its own. */
  readonly isInner: boolean
}

/** Where a device is, and which memory it draws from. */
export interface PoolMember {
  readonly freeBytes: number
  readonly totalBytes: number
  /** Equal for devices of one memory; absent: no other is known to draw from it. */
  readonly memory?: string | undefined
  /** Its server. */
  readonly endpoint?: string | undefined
}

const groupsOf = (
  members: ReadonlyArray<readonly [index: number, member: PoolMember]>,
  key: (member: PoolMember) => string | undefined,
) =>
  [...Map.groupBy(members, ([, member]) => key(member))]
    .filter(([found, group]) => found !== undefined && group.length > 1)
    .map(([, group]) => group)

/** Servers that do not know what is free say that all is: they are believed where nobody knows better. */
const freeOf = (group: ReadonlyArray<readonly [number, PoolMember]>): number => {
  const knowing = group.filter(([, { freeBytes, totalBytes }]) => freeBytes < totalBytes)
  return Math.max(...(knowing.length > 0 ? knowing : group).map(([, { freeBytes }]) => freeBytes))
}

/** The pools of devices in their order, and of this host. */
export const poolsOf = (
  devices: ReadonlyArray<PoolMember>,
  host: PoolMember,
): ReadonlyArray<Pool> => {
  const all = [...devices.entries(), [HOST, host] as const]
  return groupsOf(all, ({ memory }) => memory).flatMap((group) => {
    const poolOf = (of: typeof group, isInner: boolean): Pool => ({
      members: of.map(([index]) => index),
      freeBytes: freeOf(of),
      isInner,
    })
    const ofServers = groupsOf(group, ({ endpoint }) => endpoint)
    return [
      poolOf(group, false),
      ...ofServers
        .filter(({ length }) => length < group.length)
        .map((devicesOfOne) => poolOf(devicesOfOne, true)),
    ]
  })
}

/** Free bytes, shared out: the same to each, but to none more than it has by itself. */
const shareOut = (free: ReadonlyArray<number>, freeBytes: number): ReadonlyArray<number> => {
  const shares = [...free]
  const order = [...free.keys()].sort((a, b) => free[a]! - free[b]!)
  let left = freeBytes
  for (const [place, index] of order.entries()) {
    shares[index] = Math.min(free[index]!, left / (order.length - place))
    left -= shares[index]
  }
  return shares
}

/** What each device may count on while the others use theirs. This host gets what is left. */
export const sharesOf = ({ devices, pools = [] }: PlannerInput): ReadonlyArray<number> => {
  const shares = devices.map(({ freeBytes }) => Math.max(0, freeBytes))
  for (const { members, freeBytes } of pools.toSorted(
    (a, b) => Number(b.isInner) - Number(a.isInner),
  )) {
    const inPool = members.filter((index) => index !== HOST)
    const parts = shareOut(
      inPool.map((index) => shares[index]!),
      Math.max(0, freeBytes),
    )
    for (const [place, index] of inPool.entries()) shares[index] = parts[place]!
  }
  return shares
}

/** What is free of each pool when its members take these bytes; the host's last. */
export const leftInPools = (
  { pools = [] }: PlannerInput,
  devices: ReadonlyArray<number>,
  host: number,
): ReadonlyArray<number> =>
  pools.map(
    ({ members, freeBytes }) =>
      freeBytes - sum(members.map((index) => (index === HOST ? host : devices[index]!))),
  )

/** The least of what a member has by itself, and of what is left in its pools. */
export const leastOf = (
  { pools = [] }: PlannerInput,
  left: ReadonlyArray<number>,
  member: number,
  own: number,
): number => Math.min(own, ...left.filter((_, place) => pools[place]!.members.includes(member)))

/** All that is free, each pool counted once. */
export const freeTogether = ({ devices, host, pools = [] }: PlannerInput): number => {
  const outer = pools.filter(({ isInner }) => !isInner)
  const pooled = new Set(outer.flatMap(({ members }) => members))
  const alone = [...devices.entries(), [HOST, host] as const].filter(
    ([index]) => !pooled.has(index),
  )
  return (
    sum(alone.map(([, { freeBytes }]) => freeBytes)) + sum(outer.map(({ freeBytes }) => freeBytes))
  )
}
