import type { ConnectError } from "../errors.ts"

/** Why Bun could not connect. */
export const connectReason = (error: unknown): ConnectError["reason"] => {
  const code = (error as { readonly code?: string }).code ?? ""
  if (code === "ECONNREFUSED") return "refused"
  if (code === "ETIMEDOUT") return "timeout"
  if (code === "EHOSTUNREACH" || code === "ENETUNREACH") return "unreachable"
  return /NOTFOUND|NODATA|EAI_|DNS/.test(code) ? "unresolved" : "other"
}
