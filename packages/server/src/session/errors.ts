import { type LostPeer, ProtocolError } from "@ggml-rpc/protocol"

/** The client is gone: its end was closed or reset, or its host does not answer any more. */
export class ClientGone extends Error {
  readonly _tag = "ClientGone"
  /** The server that was waited for, which a client that only sends no more is told. */
  readonly lost: LostPeer | undefined

  constructor(message: string, lost?: LostPeer) {
    super(message)
    this.lost = lost
  }
}

/** What `ggml` said while a request failed on the server's side; the request itself was in order. */
export class ComputeError extends Error {
  readonly _tag = "ComputeError"
  /** The request, where it is not the one that is handled: another one waits for what it had computed. */
  readonly command: string | undefined

  constructor(message: string, command?: string) {
    super(message)
    this.command = command
  }
}

/** The link to another server does not come about, or broke; see CommLink.ts and PeerGroup.ts. */
export class LinkError extends Error {
  readonly _tag = "LinkError"
  /** Which server of its group it is, where the client can be told. */
  readonly lost: LostPeer | undefined

  constructor(message: string, lost?: LostPeer) {
    super(message)
    this.lost = lost
  }
}

/** Refuses a request. `field` may be a tensor's name and a field of it. */
export const refuse: (
  field: string,
  reason: string,
  value?: number | bigint | string | undefined,
) => never = (field, reason, value) => {
  throw new ProtocolError({ field, reason, value })
}
