export { ApiError, type ErrorKind } from "./ApiError.ts"
export { Api } from "./Api.ts"
export { type ApiOptions, type ApiServer, ListenError, serveApi } from "./serveApi.ts"
