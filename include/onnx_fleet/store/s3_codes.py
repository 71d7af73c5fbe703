"""What each error code of S3, and of STS and KMS behind it, means for a store: one table that decides retry or failure.

The codes are those of the S3 API reference, of the service descriptions that botocore carries for S3, STS and KMS, and
of what AWS calls its common errors. S3 hands a fault of KMS on with ``KMS.`` before its code, or without. A code that
is not in the table is decided by its HTTP status.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from onnx_fleet.errors import OnnxFleetError, StoreDenied, StoreNotFound, StoreUnavailable

CHECK_CREDENTIALS: Final = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the Airflow connection's login"
)


@dataclass(frozen=True, slots=True)
class Meaning:
    """How an answer ends the call, and what its message advises."""

    error: type[OnnxFleetError]
    advice: str


BUSY: Final = Meaning(StoreUnavailable, "it is retried, and may work later")
DAMAGED: Final = Meaning(StoreUnavailable, "the bytes were damaged or truncated in transfer; it is retried")
ABORTED: Final = Meaning(StoreUnavailable, "the upload was aborted meanwhile; it is retried from its start")
EXPIRED: Final = Meaning(
    StoreUnavailable,
    "the temporary credentials ran out, and a retry asks for new ones; keys that were set by hand have to be renewed by"
    f" hand ({CHECK_CREDENTIALS})",
)
CLOCK: Final = Meaning(
    StoreUnavailable, "this machine's clock and the server's differ; synchronise it (NTP); it is retried"
)
KEY_BUSY: Final = Meaning(StoreUnavailable, "the KMS key cannot be used at the moment; it is retried")
DENIED: Final = Meaning(
    StoreDenied, f"use credentials that may read, list and write under this prefix ({CHECK_CREDENTIALS})"
)
ROLE: Final = Meaning(StoreDenied, "correct the role that is assumed, its trust and its session policy")
KEY: Final = Meaning(
    StoreDenied,
    "make sure that the KMS key exists, is enabled and may be used with these credentials, or change sse_kms_key_id",
)
ARCHIVED: Final = Meaning(StoreDenied, "the object is in an archive class; restore it, and remove the lifecycle rule")
NO_BUCKET: Final = Meaning(StoreNotFound, "create the bucket, or correct the store's address")
REGION: Final = Meaning(StoreNotFound, "set the region that the bucket is in")
NO_OBJECT: Final = Meaning(StoreNotFound, "correct the store's address")
CHECKSUMS: Final = Meaning(StoreDenied, "this server refuses boto3's checksums: set checksum_mode to when_required")
SETTINGS: Final = Meaning(StoreDenied, "correct the store's settings")

_CODES: Mapping[Meaning, str] = {
    BUSY: """
        BandwidthLimitExceeded Busy ConditionalRequestConflict EC2ThrottledException IDPCommunicationError InternalError
        InternalFailure InternalServerError LimitExceeded LimitExceededException OperationAborted
        PriorRequestNotComplete ProvisionedThroughputExceededException RequestLimitExceeded RequestThrottled
        RequestThrottledException RequestTimeout RequestTimeoutException RestoreAlreadyInProgress ServiceException
        ServiceFailure ServiceUnavailable ServiceUnavailableException SlowDown SlowDownRead SlowDownWrite
        TemporaryRedirect ThrottledException Throttling ThrottlingException TooManyRequests TooManyRequestsException
        TransactionInProgressException
    """,
    DAMAGED: "BadDigest ConnectionClosedByRequester IncompleteBody ResponseInterrupted XAmzContentSHA256Mismatch",
    ABORTED: "NoSuchUpload",
    EXPIRED: """
        ExpiredToken ExpiredTokenException ExpiredTradeInTokenException InvalidIdentityToken InvalidSessionException
        TokenRefreshRequired
    """,
    CLOCK: "RequestExpired RequestInTheFuture RequestTimeTooSkewed",
    KEY_BUSY: """
        CloudHsmClusterNotActiveException DependencyTimeoutException KMSInternalException KeyUnavailableException
        XksProxyUriUnreachableException
    """,
    DENIED: """
        AccessDenied AccessDeniedException AccountProblem AllAccessDisabled AuthFailure CredentialsNotSupported
        IncompleteSignature InvalidAccessKeyId InvalidClientTokenId InvalidPayer InvalidSecurity InvalidSignature
        InvalidToken MissingAuthenticationToken MissingSecurityElement MissingSecurityHeader NotAuthorized
        NotDeviceOwnerError NotSignedUp OptInRequired SignatureDoesNotMatch TagPolicyException TokenCodeInvalidError
        Unauthorized UnauthorizedAccess UnauthorizedAccessError UnrecognizedClientException UnsupportedSignature
    """,
    ROLE: """
        IDPRejectedClaim InvalidAuthorizationMessageException JWTPayloadSizeExceededException MalformedPolicyDocument
        OutboundWebIdentityFederationDisabledException PackedPolicyTooLarge RegionDisabledException
        SessionDurationEscalationException
    """,
    KEY: """
        AlreadyExistsException CloudHsmClusterInUseException CloudHsmClusterInvalidConfigurationException
        CloudHsmClusterNotFoundException CloudHsmClusterNotRelatedException ConflictException
        CustomKeyStoreHasCMKsException CustomKeyStoreInvalidStateException CustomKeyStoreNameInUseException
        CustomKeyStoreNotFoundException DisabledException DryRunOperationException ExpiredImportTokenException
        IncorrectKeyException IncorrectKeyMaterialException IncorrectTrustAnchorException InvalidAliasNameException
        InvalidArnException InvalidCiphertextException InvalidGrantIdException InvalidGrantTokenException
        InvalidImportTokenException InvalidKeyUsageException InvalidMarkerException KMSInvalidMacException
        KMSInvalidSignatureException KMSInvalidStateException MalformedPolicyDocumentException NotFoundException
        TagException UnsupportedOperationException XksKeyAlreadyInUseException XksKeyInvalidConfigurationException
        XksKeyNotFoundException XksProxyIncorrectAuthenticationCredentialException
        XksProxyInvalidConfigurationException XksProxyInvalidResponseException XksProxyUriEndpointInUseException
        XksProxyUriInUseException XksProxyVpcEndpointServiceInUseException
        XksProxyVpcEndpointServiceInvalidConfigurationException XksProxyVpcEndpointServiceNotFoundException
    """,
    ARCHIVED: "InvalidObjectState ObjectAlreadyInActiveTierError ObjectNotInActiveTierError",
    NO_BUCKET: """
        InvalidBucketName InvalidBucketState NoSuchAccessPoint NoSuchBucket NoSuchMultiRegionAccessPoint
    """,
    REGION: """
        AuthorizationHeaderMalformed EndpointNotFound IllegalLocationConstraintException IncorrectEndpoint
        InvalidLocationConstraint InvalidRegion PermanentRedirect PermanentRedirectControlError Redirect
    """,
    NO_OBJECT: "NoSuchAnnotation NoSuchKey NoSuchResource NoSuchVersion NotFound",
    CHECKSUMS: "MissingContentLength NotImplemented",
    SETTINGS: """
        AccessControlListNotSupported AccessPointAlreadyOwnedByYou AmbiguousGrantByEmailAddress AnnotationLimitExceeded
        AnnotationNameTooLong AuthorizationQueryParametersError BucketAlreadyExists BucketAlreadyOwnedByYou
        BucketHasAccessPointsAttached BucketNotEmpty ClientTokenConflict CrossLocationLoggingProhibited
        DeviceNotActiveError EncryptionTypeMismatch EntityTooLarge EntityTooSmall IdempotencyParameterMismatch
        IllegalVersioningConfigurationException IncorrectNumberOfFilesInPostRequest InlineDataTooLarge
        InvalidAccessPoint InvalidAccessPointAliasError InvalidAction InvalidAddressingHeader InvalidAnnotationName
        InvalidArgument InvalidBucketAclWithObjectOwnership InvalidBucketOwnerAWSAccountID InvalidDigest
        InvalidEncryptionAlgorithmError InvalidHostHeader InvalidHttpMethod InvalidParameterCombination
        InvalidParameterValue InvalidPart InvalidPartOrder InvalidPolicyDocument InvalidPrefix InvalidQueryParameter
        InvalidRange InvalidRequest InvalidSOAPRequest InvalidStorageClass InvalidTag InvalidTargetBucketForLogging
        InvalidURI InvalidWriteOffset KeyTooLongError MalformedACLError MalformedPOSTRequest MalformedPolicy
        MalformedQueryString MalformedXML MaxMessageLengthExceeded MaxPostPreDataLengthExceededError MetadataTooLarge
        MethodNotAllowed MissingAction MissingAttachment MissingParameter MissingRequestBodyError NoLoggingStatusForKey
        NoSuchAsyncRequest NoSuchBucketPolicy NoSuchCORSConfiguration NoSuchLifecycleConfiguration
        NoSuchObjectLockConfiguration NoSuchTagSet NoSuchWebsiteConfiguration NotModified
        ObjectLockConfigurationNotFoundError OwnershipControlsNotFoundError PreconditionFailed
        RequestHeaderSectionTooLarge RequestIsNotMultiPartContent RequestTorrentOfBucketError
        ServerSideEncryptionConfigurationNotFoundError TooManyAccessPoints TooManyBuckets
        TooManyMultiRegionAccessPointregionsError TooManyMultiRegionAccessPoints TooManyParts UnexpectedContent
        UnexpectedIPError UnsupportedArgument UnsupportedMediaType UserKeyMustBeSpecified ValidationError
    """,
}

BY_CODE: Mapping[str, Meaning] = {code: meaning for meaning, codes in _CODES.items() for code in codes.split()}


def meaning_of(code: str, status: int) -> Meaning:
    """What an answer means.

    Args:
        code: the server's word for it; the HTTP status as text, or nothing, for an answer without a body.
        status: the HTTP status; 0 where the answer carried none.
    """
    if found := BY_CODE.get(code.removeprefix("KMS.")):
        return found
    if status == 301:
        return REGION
    if status in (411, 501):
        return CHECKSUMS
    if status in (408, 429) or status >= 500:
        return BUSY
    if status in (401, 403):
        return DENIED
    return NO_OBJECT if status == 404 else SETTINGS
