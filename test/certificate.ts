/**
 * A self-signed certificate for `sluice-test`, for these tests alone, valid for a hundred years. No other place trusts
 * or uses it.
 */
export const KEY = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgWrEy1l7CjyOrY3FY
RBJKuTs/xXbh0vwMh6KWFSWhDPmhRANCAASvVo9cx1WJigMkV2Ow9phX4cY8/Eju
iD+n14+ejDUP5SsPEoh3m284aJEaFOzaWBAaNip6ugwS721REA56d/BO
-----END PRIVATE KEY-----`;
export const CERT = `-----BEGIN CERTIFICATE-----
MIIBgzCCASmgAwIBAgIUJQ7guglAP/Bwh1jms5zGBhkbqxYwCgYIKoZIzj0EAwIw
FjEUMBIGA1UEAwwLc2x1aWNlLXRlc3QwIBcNMjYxMTI2MjE0MDE1WhgPMjEyNjEx
MDIyMTQwMTVaMBYxFDASBgNVBAMMC3NsdWljZS10ZXN0MFkwEwYHKoZIzj0CAQYI
KoZIzj0DAQcDQgAEr1aPXMdViYoDJFdjsPaYV+HGPPxI7og/p9ePnow1D+UrDxKI
d5tvOGiRGhTs2lgQGjYqeroMEu9tURAOenfwTqNTMFEwHQYDVR0OBBYEFOixnjDp
tHqBvMihCvWFDiinPK3CMB8GA1UdIwQYMBaAFOixnjDptHqBvMihCvWFDiinPK3C
MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIhAMx0eBHpMy77hvjx
Zm+FGbqnnlC1dxqZQGFLWy70gmokAiAc3uQanX8b1J2++xHLxk9vjiw3gQyb1SQl
7HW3erL9jA==
-----END CERTIFICATE-----`;
