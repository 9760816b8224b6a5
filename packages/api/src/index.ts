export { Api } from "./Api.ts"
export { ApiError, type ErrorKind } from "./ApiError.ts"
export { type ApiOptions, type ApiServer, ListenError, serveApi } from "./serveApi.ts"
