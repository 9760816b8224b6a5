export { Api } from "./Api.ts"
export { ApiError, type ErrorKind } from "./ApiError.ts"
export type { Asset } from "./answer.ts"
export { type ApiOptions, type ApiServer, ListenError, serveApi } from "./serveApi.ts"
