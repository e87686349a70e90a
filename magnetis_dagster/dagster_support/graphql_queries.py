"""All GraphQL queries that we send to Dagster's webserver. Tests check them against its schema."""

LOCATIONS = """
query MagnetisLocations {
  workspaceOrError {
    __typename
    ... on PythonError { ...Reason }
    ... on Workspace {
      locationEntries {
        name
        locationOrLoadError {
          __typename
          ... on RepositoryLocation { repositories { name } }
          ... on PythonError { ...Reason }
        }
      }
    }
  }
}
fragment Reason on PythonError { message causes { message } }
"""

PARTITIONS = """
query MagnetisPartitions($keys: [AssetKeyInput!]!) {
  assetNodes(assetKeys: $keys) {
    assetKey { path }
    assetPartitionStatuses {
      ... on TimePartitionStatuses { ranges { startKey endKey status } }
    }
  }
}
"""

LAUNCH = """
mutation MagnetisLaunch($parameters: ExecutionParams!) {
  launchRun(executionParams: $parameters) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on Error { message }
    ... on PipelineConfigValidationInvalid { errors { message } }
  }
}
"""

BACKFILL = """
mutation MagnetisBackfill($parameters: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $parameters) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on Error { message }
  }
}
"""

RUN = """
query MagnetisRun($run: ID!, $cursor: String) {
  runOrError(runId: $run) { __typename ... on Run { status } ... on Error { message } }
  logsForRun(runId: $run, afterCursor: $cursor, limit: 1000) {
    __typename
    ... on Error { message }
    ... on EventConnection {
      cursor
      hasMore
      events {
        __typename
        ... on MaterializationEvent {
          assetKey { path }
          metadataEntries { label ... on IntMetadataEntry { intRepr } }
        }
        ... on ExecutionStepFailureEvent {
          stepKey
          error { ...Reason }
          failureMetadata { metadataEntries { label ... on TextMetadataEntry { text } } }
        }
        ... on ExecutionStepUpForRetryEvent { stepKey error { ...Reason } }
        ... on RunFailureEvent { message error { ...Reason } }
        ... on RunCanceledEvent { message }
      }
    }
  }
}
fragment Reason on PythonError { message causes { message } }
"""
