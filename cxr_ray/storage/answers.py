"""What boto3 raises, read as refusals: the code of the server's answer, never its free text, and whether it passes."""

import re
from typing import Any

from cxr_ray.errors import Fault
from cxr_ray.storage.repeating import Refusal

# What a store says when it wants to be asked later. Source: botocore's and the S3 API's lists of error codes.
_THROTTLED = frozenset(
    (
        *("SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "ThrottledException", "429"),
        *("RequestThrottled", "RequestThrottledException", "TooManyRequests", "TooManyRequestsException"),
        *("RequestLimitExceeded", "BandwidthLimitExceeded", "LimitExceededException", "PriorRequestNotComplete"),
        *("ProvisionedThroughputExceededException", "TransactionInProgressException", "EC2ThrottledException"),
    )
)
_PASSING = frozenset(
    (
        *("InternalError", "RequestTimeout", "RequestTimeoutException", "IncompleteBody", "BadDigest"),
        *("OperationAborted", "ConditionalRequestConflict", "XAmzContentSHA256Mismatch"),
    )
)
_NOT_FOUND = frozenset(("NoSuchKey", "NoSuchBucket", "NoSuchVersion", "ParamValidationError"))
_NO_CREDENTIALS = frozenset(("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "NoAuthTokenError"))
_DENIED = frozenset(
    (
        *("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "UnauthorizedSSOTokenError", "SSOTokenLoadError"),
        *("ConfigNotFound", "ConfigParseError", "TokenRetrievalError", "InvalidConfigError"),
    )
)
_WRONG_REGION = frozenset(
    (
        *("PermanentRedirect", "AuthorizationHeaderMalformed", "TemporaryRedirect", "301", "307"),
        *("IllegalLocationConstraintException", "InvalidRegionError", "NoRegionError"),
    )
)


class BrokenBodyError(Exception):
    """A body that ended before its announced length."""


def kinds_of_error() -> tuple[type[Exception], ...]:
    """What boto3 raises on purpose: answers of the server, and everything from no connection to no credentials."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    return BotoCoreError, ClientError, HTTPError, BrokenBodyError


def code_and_status(error: Exception) -> tuple[str, int]:
    """The code of an answer, or the kind of the error, and the HTTP status, or 0."""
    answer = getattr(error, "response", None) or {}
    code = answer.get("Error", {}).get("Code") or type(error).__name__
    return str(code), int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def refusal_of(error: Exception, endpoint: str) -> Refusal:
    """Why the store did not do as asked; `endpoint` is named where it may be to blame."""
    code, status = code_and_status(error)
    said: dict[str, Any] = (getattr(error, "response", None) or {}).get("Error", {})
    if isinstance(error, BrokenBodyError):
        return Refusal(Fault.STORAGE_UNAVAILABLE, str(error), f"check {endpoint} and the network", passing=True)
    if code == "InvalidObjectState":
        kept = said.get("StorageClass")
        code = f"{code}, {kept}" if kept else code
        return Refusal(Fault.ARCHIVED, code, "restore it to a storage class that can be read, then run again")
    if code in _WRONG_REGION or status in (301, 307):
        return Refusal(Fault.ACCESS_DENIED, code, _region_remedy(error, said))
    if status == 412:
        return Refusal(Fault.CHANGED, code, "it was replaced after it was listed; the next run scores it")
    if status in (404, 410) or code in _NOT_FOUND:
        return Refusal(Fault.NOT_FOUND, code, "check bucket and prefix")
    if code in _NO_CREDENTIALS:
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, storage.stores.profile or anonymous, or give the"
        return Refusal(Fault.ACCESS_DENIED, code, f"{remedy} machine a role")
    if code in _THROTTLED:
        remedy = f"set requests_per_second for {endpoint} in storage.stores, or fewer requests_in_flight"
        return Refusal(Fault.STORAGE_UNAVAILABLE, code, remedy, passing=True)
    if code not in _PASSING and (status in (401, 403) or code in _DENIED):
        return Refusal(Fault.ACCESS_DENIED, code, "check credentials and permissions")
    passing = code in _PASSING or status in (408, 429) or status >= 500 or status < 400
    return Refusal(Fault.STORAGE_UNAVAILABLE, code, f"check {endpoint} and the network", passing=passing)


def _region_remedy(error: Exception, said: dict[str, Any]) -> str:
    """Where the bucket is, as far as the answer tells."""
    headers = (getattr(error, "response", None) or {}).get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = str(said.get("Region") or headers.get("x-amz-bucket-region") or "")
    if re.fullmatch(r"[a-z0-9-]{1,40}", region):
        return f"the bucket is in another region; set region: {region} in storage.stores"
    return "the bucket is in another region; set its region in storage.stores"
