import { expect, test } from "bun:test"
import { LinkStatus } from "@ggml-rpc/protocol"
import { Cancels } from "../Cancels.ts"
import type { RpcConnection } from "./RpcConnection.ts"
import { ServerLinks } from "./ServerLinks.ts"
import { shareWaits } from "./waiting.ts"

type Step = "LINK_EXPECT" | "LINK_DIAL" | "LINK_AWAIT"

/** A server that answers so, and else that all is done. */
const server = (endpoint: string, answers: Partial<Record<Step, number>> = {}, place = -1) =>
  ({
    endpoint,
    place,
    target: { host: endpoint, port: 50052 },
    linked: [],
    callExtension: (name: Step) => ({ status: answers[name] ?? LinkStatus.DONE }),
    postExtension: () => {},
  }) as unknown as RpcConnection

const { LATE, NOT_ALLOWED, OFF } = LinkStatus

test.each<readonly [Partial<Record<Step, number>>, Partial<Record<Step, number>>, string]>([
  // The first one dials before the second does.
  [
    { LINK_DIAL: LATE },
    { LINK_DIAL: LATE },
    "a did not reach in time b; b did not reach in time a",
  ],
  [
    { LINK_AWAIT: LATE },
    { LINK_EXPECT: LATE },
    "b was not ready in time for a; a was not reached in time by b",
  ],
  [
    { LINK_DIAL: NOT_ALLOWED },
    { LINK_DIAL: NOT_ALLOWED },
    "a may not connect (serve --peers) to b; b may not connect (serve --peers) to a",
  ],
  [{ LINK_EXPECT: OFF, LINK_DIAL: OFF }, {}, "a makes no links to other servers (serve --peers)"],
])("why two servers are not linked is said for both ways: %j, %j", (first, second, reason) => {
  expect(new ServerLinks().acquire([server("a", first), server("b", second)])).toBe(reason)
})

test("servers that are linked with others are linked with the former ones no more", () => {
  const links = new ServerLinks()
  const [a, b, c] = [server("a"), server("b"), server("c")]
  expect(links.acquire([a, b])).toBeUndefined()
  expect(b.linked).toEqual([a, b])
  links.release()
  expect(links.acquire([a, c])).toBeUndefined()
  expect([a.linked, b.linked, c.linked]).toEqual([[a, c], [], [a, c]])
})

test("who waits is told to wait for sums as long as somebody has links", () => {
  const cancels = new Cancels()
  expect(shareWaits(cancels.descriptor)).toBe(true)
  const links = new ServerLinks()
  const connections = [server("a", {}, 0), server("b", {}, 2)]
  const told: Array<number> = []
  const step = (act: () => void): void => {
    act()
    told.push(cancels.waiting().linked)
  }
  const begin = (): void => expect(links.acquire(connections)).toBeUndefined()
  const end = (): void => links.release()
  for (const act of [begin, begin, end, end, begin, end]) step(act)
  expect(told).toEqual([0b101, 0b101, 0b101, 0, 0b101, 0])
  cancels.close()
})
