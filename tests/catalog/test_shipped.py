"""The shipped catalogue says what other programs rely on: 18 collections, their families, kinds and columns."""

import pytest

from magnetis_dagster.catalog import Catalogue, ColumnType, Evidence, Kind, PersonalData

CONTRACT = {
    "organization": {"entities": "snapshot", "networks": "snapshot", "accounts": "snapshot"},
    "numbers": {"numbers": "snapshot", "pools": "snapshot", "recipients": "snapshot"},
    "activity": {"calls": "events", "visits": "events", "conversions": "events"},
    "email_tracking": {"email_trackers": "snapshot", "emails": "events"},
    "leads": {"leads": "events"},
    "settings": {"reports": "snapshot", "email_alerts": "snapshot", "sms_alerts": "snapshot"},
    "content": {"landing_pages": "snapshot", "sms_messages": "snapshot", "audio_files": "snapshot"},
}


def test_families_collections_and_kinds_are_those_of_the_contract(catalogue: Catalogue) -> None:
    shipped: dict[str, dict[str, str]] = {family: {} for family in catalogue.families}
    for collection in catalogue.enabled:
        shipped[collection.family][collection.name] = collection.kind.value
    assert shipped == CONTRACT
    assert list(shipped) == list(CONTRACT), "the vendor's order"


def test_calls_have_the_columns_of_the_contract(catalogue: Catalogue) -> None:
    utm = {"utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "gclid"}
    promised = {
        "caller_number",
        "duration_seconds",
        "status",
        "channel",
        "number_id",
        "recipient_id",
    } | utm
    assert promised <= catalogue["calls"].columns.keys()
    assert catalogue["calls"].columns["caller_number"].personal_data is PersonalData.PERSONAL


def test_columns_stand_in_the_order_of_the_file_with_the_campaign_last(
    catalogue: Catalogue,
) -> None:
    columns = list(catalogue["calls"].columns)
    assert columns[:2] == ["account_name", "caller_number"]
    assert columns[-6:] == [
        "utm_source",
        "utm_medium",
        "utm_campaign",
        "utm_term",
        "utm_content",
        "gclid",
    ]


def test_only_what_was_seen_is_called_confirmed_or_observed(catalogue: Catalogue) -> None:
    """magnetis-api.md: the vendor documents /alerts/email in public, a client calls /calls, /alerts/sms follows from the first."""
    seen = {
        c.name: c.routes[0].evidence
        for c in catalogue.enabled
        if c.routes[0].evidence is not Evidence.ASSUMED
    }
    assert seen == {
        "calls": Evidence.OBSERVED,
        "email_alerts": Evidence.CONFIRMED,
        "sms_alerts": Evidence.INFERRED,
    }
    assert catalogue["email_alerts"].route == "/alerts/email"
    assert catalogue["calls"].route == "/calls"
    assert catalogue["calls"].parameters == {"analysis": "1"}


@pytest.mark.parametrize("kind", Kind)
def test_every_column_is_described_and_durations_name_their_unit(
    catalogue: Catalogue, kind: Kind
) -> None:
    columns = [
        (c.name, name, column)
        for c in catalogue.enabled
        if c.kind is kind
        for name, column in c.columns.items()
    ]
    assert [where[:2] for where in columns if not where[2].description.endswith((".", "?"))] == []
    assert [
        where[:2]
        for where in columns
        if where[1].endswith("_seconds") and where[2].unit != "seconds"
    ] == []
    assert [
        where[:2]
        for where in columns
        if where[1].endswith("_at") and where[2].type is not ColumnType.TIMESTAMP
    ] == []


def test_asking_for_an_unknown_collection_names_those_that_exist(catalogue: Catalogue) -> None:
    with pytest.raises(KeyError, match="'cals'; there are: entities, networks"):
        catalogue["cals"]
