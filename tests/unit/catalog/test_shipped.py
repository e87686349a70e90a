"""The default catalogue contains the collections and columns of the contract."""

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


def test_families_collections_and_kinds_match_the_contract(catalogue: Catalogue) -> None:
    shipped: dict[str, dict[str, str]] = {family: {} for family in catalogue.families}
    for collection in catalogue.enabled:
        shipped[collection.family][collection.name] = collection.kind.value
    assert shipped == CONTRACT
    assert list(shipped) == list(CONTRACT), "the vendor's order"


def test_calls_have_the_columns_of_the_contract(catalogue: Catalogue) -> None:
    utm = {"utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "gclid"}
    required = {
        "caller_number",
        "duration_seconds",
        "status",
        "channel",
        "number_id",
        "recipient_id",
    } | utm
    assert required <= catalogue["calls"].columns.keys()
    assert catalogue["calls"].columns["caller_number"].personal_data.degree is PersonalData.PERSONAL


def test_personal_columns_have_a_class_and_numbers_and_addresses_are_known(
    catalogue: Catalogue,
) -> None:
    generic = {PersonalData.PERSONAL, PersonalData.PSEUDONYM, PersonalData.UNCLASSIFIED}
    for collection in catalogue.collections.values():
        for name, column in collection.columns.items():
            assert column.personal_data not in generic, name
            assert not column.contains or column.personal_data is not PersonalData.NONE, name
    assert catalogue["calls"].columns["caller_number"].contains == "phone"
    assert catalogue["leads"].columns["contact_email"].contains == "email"
    assert catalogue["visits"].columns["pages"].personal_data.degree is PersonalData.PSEUDONYM


def test_columns_have_the_order_of_the_file_with_campaign_columns_last(
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


def test_only_routes_with_evidence_are_confirmed_or_observed(catalogue: Catalogue) -> None:
    """The vendor documents /alerts/email; a public client uses /calls.

    /alerts/sms is inferred from /alerts/email.
    """
    evidence = {
        c.name: c.routes[0].evidence
        for c in catalogue.enabled
        if c.routes[0].evidence is not Evidence.ASSUMED
    }
    assert evidence == {
        "calls": Evidence.OBSERVED,
        "email_alerts": Evidence.CONFIRMED,
        "sms_alerts": Evidence.INFERRED,
    }
    assert catalogue["email_alerts"].route == "/alerts/email"
    assert catalogue["calls"].route == "/calls"
    assert catalogue["calls"].parameters == {"analysis": "1"}


@pytest.mark.parametrize("kind", Kind)
def test_every_column_has_a_description_and_durations_have_a_unit(
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


def test_the_error_for_an_unknown_collection_names_the_known_ones(catalogue: Catalogue) -> None:
    with pytest.raises(KeyError, match="'cals'; expected one of entities, networks"):
        catalogue["cals"]
