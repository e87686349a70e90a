-- The tables of the version before the column `connection`, without rows. Made by pg_dump from a new
-- database of that version, without comments and settings of the session. Do not change it.
CREATE SCHEMA magnetis;
CREATE SCHEMA magnetis_ops;
CREATE FUNCTION magnetis_ops.now() RETURNS timestamp with time zone
    LANGUAGE sql
    AS $$SELECT clock_timestamp()$$;
CREATE TABLE magnetis.accounts (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    name text,
    network_id text,
    network_name text,
    entity_id text,
    entity_name text,
    sector text,
    zipcode text,
    city text,
    country text,
    website text,
    email text,
    plan text,
    created_at timestamp with time zone,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone
);
COMMENT ON TABLE magnetis.accounts IS 'Accounts, one per point of sale or customer, which own the tracked numbers.';
COMMENT ON COLUMN magnetis.accounts.id IS 'Identifier given by Magnetis; opaque.';
COMMENT ON COLUMN magnetis.accounts.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.accounts.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.accounts.name IS 'Company name.';
COMMENT ON COLUMN magnetis.accounts.network_id IS 'Network that the account belongs to.';
COMMENT ON COLUMN magnetis.accounts.network_name IS 'Name of that network.';
COMMENT ON COLUMN magnetis.accounts.entity_id IS 'Entity that the account belongs to.';
COMMENT ON COLUMN magnetis.accounts.entity_name IS 'Name of that entity.';
COMMENT ON COLUMN magnetis.accounts.sector IS 'Business sector.';
COMMENT ON COLUMN magnetis.accounts.zipcode IS 'Postcode.';
COMMENT ON COLUMN magnetis.accounts.city IS 'City.';
COMMENT ON COLUMN magnetis.accounts.country IS 'Country as received.';
COMMENT ON COLUMN magnetis.accounts.website IS 'Website address.';
COMMENT ON COLUMN magnetis.accounts.email IS 'Contact e-mail address of the account. Personal data: personal.';
COMMENT ON COLUMN magnetis.accounts.plan IS 'Subscription plan.';
COMMENT ON COLUMN magnetis.accounts.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.accounts.first_seen_at IS 'Start of the first read that returned the row.';
COMMENT ON COLUMN magnetis.accounts.last_seen_at IS 'Start of the last read that changed anything in the row.';
COMMENT ON COLUMN magnetis.accounts.changed_at IS 'Start of the read in which the payload last differed.';
COMMENT ON COLUMN magnetis.accounts.deleted_at IS 'Start of the complete read that no longer returned the row.';
CREATE TABLE magnetis.entities (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    name text,
    created_at timestamp with time zone,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone
);
COMMENT ON TABLE magnetis.entities IS 'Entities, the top of the hierarchy entity > network > account.';
COMMENT ON COLUMN magnetis.entities.id IS 'Identifier given by Magnetis; opaque.';
COMMENT ON COLUMN magnetis.entities.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.entities.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.entities.name IS 'Name chosen by the customer.';
COMMENT ON COLUMN magnetis.entities.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.entities.first_seen_at IS 'Start of the first read that returned the row.';
COMMENT ON COLUMN magnetis.entities.last_seen_at IS 'Start of the last read that changed anything in the row.';
COMMENT ON COLUMN magnetis.entities.changed_at IS 'Start of the read in which the payload last differed.';
COMMENT ON COLUMN magnetis.entities.deleted_at IS 'Start of the complete read that no longer returned the row.';
CREATE TABLE magnetis.networks (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    name text,
    entity_id text,
    entity_name text,
    created_at timestamp with time zone,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone
);
COMMENT ON TABLE magnetis.networks IS 'Networks of accounts, below an entity.';
COMMENT ON COLUMN magnetis.networks.id IS 'Identifier given by Magnetis; opaque.';
COMMENT ON COLUMN magnetis.networks.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.networks.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.networks.name IS 'Name chosen by the customer.';
COMMENT ON COLUMN magnetis.networks.entity_id IS 'Entity that the network belongs to.';
COMMENT ON COLUMN magnetis.networks.entity_name IS 'Name of that entity.';
COMMENT ON COLUMN magnetis.networks.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.networks.first_seen_at IS 'Start of the first read that returned the row.';
COMMENT ON COLUMN magnetis.networks.last_seen_at IS 'Start of the last read that changed anything in the row.';
COMMENT ON COLUMN magnetis.networks.changed_at IS 'Start of the read in which the payload last differed.';
COMMENT ON COLUMN magnetis.networks.deleted_at IS 'Start of the complete read that no longer returned the row.';
CREATE VIEW magnetis.accounts_current AS
 SELECT a.id,
    a.account_id,
    COALESCE(a.network_name, n.name) AS network_name,
    COALESCE(a.entity_name, n.entity_name, e.name) AS entity_name,
    a.name,
    a.network_id,
    a.entity_id,
    a.sector,
    a.zipcode,
    a.city,
    a.country,
    a.website,
    a.email,
    a.plan,
    a.created_at,
    (a.created_at AT TIME ZONE 'Europe/Paris'::text) AS created_at_local,
    a.first_seen_at,
    a.last_seen_at,
    a.changed_at
   FROM ((magnetis.accounts a
     LEFT JOIN magnetis.networks n ON ((n.id = COALESCE(a.network_id))))
     LEFT JOIN magnetis.entities e ON ((e.id = COALESCE(a.entity_id, n.entity_id))))
  WHERE (a.deleted_at IS NULL);
COMMENT ON VIEW magnetis.accounts_current IS 'Rows of magnetis.accounts that the API still returns, with local times and the names of account, network and entity.';
CREATE TABLE magnetis.accounts_history (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    name text,
    network_id text,
    network_name text,
    entity_id text,
    entity_name text,
    sector text,
    zipcode text,
    city text,
    country text,
    website text,
    email text,
    plan text,
    created_at timestamp with time zone,
    valid_from timestamp with time zone NOT NULL,
    valid_to timestamp with time zone
);
COMMENT ON TABLE magnetis.accounts_history IS 'Versions over time. Accounts, one per point of sale or customer, which own the tracked numbers.';
COMMENT ON COLUMN magnetis.accounts_history.id IS 'Identifier given by Magnetis.';
COMMENT ON COLUMN magnetis.accounts_history.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.accounts_history.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.accounts_history.name IS 'Company name.';
COMMENT ON COLUMN magnetis.accounts_history.network_id IS 'Network that the account belongs to.';
COMMENT ON COLUMN magnetis.accounts_history.network_name IS 'Name of that network.';
COMMENT ON COLUMN magnetis.accounts_history.entity_id IS 'Entity that the account belongs to.';
COMMENT ON COLUMN magnetis.accounts_history.entity_name IS 'Name of that entity.';
COMMENT ON COLUMN magnetis.accounts_history.sector IS 'Business sector.';
COMMENT ON COLUMN magnetis.accounts_history.zipcode IS 'Postcode.';
COMMENT ON COLUMN magnetis.accounts_history.city IS 'City.';
COMMENT ON COLUMN magnetis.accounts_history.country IS 'Country as received.';
COMMENT ON COLUMN magnetis.accounts_history.website IS 'Website address.';
COMMENT ON COLUMN magnetis.accounts_history.email IS 'Contact e-mail address of the account. Personal data: personal.';
COMMENT ON COLUMN magnetis.accounts_history.plan IS 'Subscription plan.';
COMMENT ON COLUMN magnetis.accounts_history.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.accounts_history.valid_from IS 'Start of the read that first saw this version.';
COMMENT ON COLUMN magnetis.accounts_history.valid_to IS 'Start of the read that no longer saw it; NULL: present version.';
CREATE TABLE magnetis.audio_files (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    name text,
    url text,
    duration_seconds bigint,
    created_at timestamp with time zone,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone
);
COMMENT ON TABLE magnetis.audio_files IS 'Stored audio files, such as greetings.';
COMMENT ON COLUMN magnetis.audio_files.id IS 'Identifier given by Magnetis; opaque.';
COMMENT ON COLUMN magnetis.audio_files.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.audio_files.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.audio_files.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.audio_files.name IS 'Name chosen by the customer.';
COMMENT ON COLUMN magnetis.audio_files.url IS 'Address of the file.';
COMMENT ON COLUMN magnetis.audio_files.duration_seconds IS 'Length of the audio. Unit: seconds.';
COMMENT ON COLUMN magnetis.audio_files.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.audio_files.first_seen_at IS 'Start of the first read that returned the row.';
COMMENT ON COLUMN magnetis.audio_files.last_seen_at IS 'Start of the last read that changed anything in the row.';
COMMENT ON COLUMN magnetis.audio_files.changed_at IS 'Start of the read in which the payload last differed.';
COMMENT ON COLUMN magnetis.audio_files.deleted_at IS 'Start of the complete read that no longer returned the row.';
CREATE VIEW magnetis.audio_files_current AS
 SELECT t.id,
    t.account_id,
    COALESCE(t.account_name, a.name) AS account_name,
    COALESCE(a.network_name, n.name) AS network_name,
    COALESCE(a.entity_name, n.entity_name, e.name) AS entity_name,
    t.name,
    t.url,
    t.duration_seconds,
    t.created_at,
    (t.created_at AT TIME ZONE 'Europe/Paris'::text) AS created_at_local,
    t.first_seen_at,
    t.last_seen_at,
    t.changed_at
   FROM (((magnetis.audio_files t
     LEFT JOIN magnetis.accounts a ON ((a.id = COALESCE(t.account_id))))
     LEFT JOIN magnetis.networks n ON ((n.id = COALESCE(a.network_id))))
     LEFT JOIN magnetis.entities e ON ((e.id = COALESCE(a.entity_id, n.entity_id))))
  WHERE (t.deleted_at IS NULL);
COMMENT ON VIEW magnetis.audio_files_current IS 'Rows of magnetis.audio_files that the API still returns, with local times and the names of account, network and entity.';
CREATE TABLE magnetis.audio_files_history (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    name text,
    url text,
    duration_seconds bigint,
    created_at timestamp with time zone,
    valid_from timestamp with time zone NOT NULL,
    valid_to timestamp with time zone
);
COMMENT ON TABLE magnetis.audio_files_history IS 'Versions over time. Stored audio files, such as greetings.';
COMMENT ON COLUMN magnetis.audio_files_history.id IS 'Identifier given by Magnetis.';
COMMENT ON COLUMN magnetis.audio_files_history.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.audio_files_history.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.audio_files_history.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.audio_files_history.name IS 'Name chosen by the customer.';
COMMENT ON COLUMN magnetis.audio_files_history.url IS 'Address of the file.';
COMMENT ON COLUMN magnetis.audio_files_history.duration_seconds IS 'Length of the audio. Unit: seconds.';
COMMENT ON COLUMN magnetis.audio_files_history.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.audio_files_history.valid_from IS 'Start of the read that first saw this version.';
COMMENT ON COLUMN magnetis.audio_files_history.valid_to IS 'Start of the read that no longer saw it; NULL: present version.';
CREATE TABLE magnetis.calls (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    day date NOT NULL,
    account_name text,
    caller_number text,
    caller_name text,
    duration_seconds bigint,
    waiting_seconds bigint,
    status text,
    channel text,
    number_id text,
    number text,
    recipient_id text,
    recipient_number text,
    visit_id text,
    ended_at timestamp with time zone,
    analysis jsonb,
    utm_source text,
    utm_medium text,
    utm_campaign text,
    utm_term text,
    utm_content text,
    gclid text,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone
);
COMMENT ON TABLE magnetis.calls IS 'Calls through tracked numbers, received or placed by a web callback.';
COMMENT ON COLUMN magnetis.calls.id IS 'Identifier given by Magnetis; opaque.';
COMMENT ON COLUMN magnetis.calls.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.calls.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.calls.occurred_at IS 'Moment of the event.';
COMMENT ON COLUMN magnetis.calls.day IS 'Local day of the event in MAGNETIS_TIMEZONE: the partition.';
COMMENT ON COLUMN magnetis.calls.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.calls.caller_number IS 'Phone number of the caller as text. Personal data: personal.';
COMMENT ON COLUMN magnetis.calls.caller_name IS 'Name of the caller, if known. Personal data: personal.';
COMMENT ON COLUMN magnetis.calls.duration_seconds IS 'Length of the conversation. Unit: seconds.';
COMMENT ON COLUMN magnetis.calls.waiting_seconds IS 'Time until the call was answered. Unit: seconds.';
COMMENT ON COLUMN magnetis.calls.status IS 'Outcome: completed, missed, ringing, and by assumption busy and voicemail.';
COMMENT ON COLUMN magnetis.calls.channel IS 'Marketing channel, a free label chosen by the customer, such as "Tout le SEO".';
COMMENT ON COLUMN magnetis.calls.number_id IS 'Tracked number that was called.';
COMMENT ON COLUMN magnetis.calls.number IS 'That number as received.';
COMMENT ON COLUMN magnetis.calls.recipient_id IS 'Recipient that the call was forwarded to.';
COMMENT ON COLUMN magnetis.calls.recipient_number IS 'Phone number of that recipient. Personal data: personal.';
COMMENT ON COLUMN magnetis.calls.visit_id IS 'Visitor journey that led to the call. Personal data: pseudonym.';
COMMENT ON COLUMN magnetis.calls.ended_at IS 'End of the call.';
COMMENT ON COLUMN magnetis.calls.analysis IS 'Data added by the parameter `analysis=1`; its content is not documented.';
COMMENT ON COLUMN magnetis.calls.utm_source IS 'Traffic source named by the campaign link.';
COMMENT ON COLUMN magnetis.calls.utm_medium IS 'Traffic medium named by the campaign link.';
COMMENT ON COLUMN magnetis.calls.utm_campaign IS 'Campaign named by the campaign link.';
COMMENT ON COLUMN magnetis.calls.utm_term IS 'Search term named by the campaign link.';
COMMENT ON COLUMN magnetis.calls.utm_content IS 'Advertisement variant named by the campaign link.';
COMMENT ON COLUMN magnetis.calls.gclid IS 'Google Ads click identifier. Personal data: pseudonym.';
COMMENT ON COLUMN magnetis.calls.first_seen_at IS 'Start of the first read that returned the row.';
COMMENT ON COLUMN magnetis.calls.last_seen_at IS 'Start of the last read that changed anything in the row.';
COMMENT ON COLUMN magnetis.calls.changed_at IS 'Start of the read in which the payload last differed.';
COMMENT ON COLUMN magnetis.calls.deleted_at IS 'Start of the complete read that no longer returned the row.';
CREATE VIEW magnetis.calls_current AS
 SELECT t.id,
    t.account_id,
    COALESCE(t.account_name, a.name) AS account_name,
    COALESCE(a.network_name, n.name) AS network_name,
    COALESCE(a.entity_name, n.entity_name, e.name) AS entity_name,
    t.occurred_at,
    (t.occurred_at AT TIME ZONE 'Europe/Paris'::text) AS occurred_at_local,
    t.day,
    t.caller_number,
    t.caller_name,
    t.duration_seconds,
    t.waiting_seconds,
    t.status,
    t.channel,
    t.number_id,
    t.number,
    t.recipient_id,
    t.recipient_number,
    t.visit_id,
    t.ended_at,
    (t.ended_at AT TIME ZONE 'Europe/Paris'::text) AS ended_at_local,
    t.analysis,
    t.utm_source,
    t.utm_medium,
    t.utm_campaign,
    t.utm_term,
    t.utm_content,
    t.gclid,
    t.first_seen_at,
    t.last_seen_at,
    t.changed_at
   FROM (((magnetis.calls t
     LEFT JOIN magnetis.accounts a ON ((a.id = COALESCE(t.account_id))))
     LEFT JOIN magnetis.networks n ON ((n.id = COALESCE(a.network_id))))
     LEFT JOIN magnetis.entities e ON ((e.id = COALESCE(a.entity_id, n.entity_id))))
  WHERE (t.deleted_at IS NULL);
COMMENT ON VIEW magnetis.calls_current IS 'Rows of magnetis.calls that the API still returns, with local times and the names of account, network and entity.';
CREATE TABLE magnetis.conversions (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    day date NOT NULL,
    account_name text,
    type text,
    channel text,
    visit_id text,
    call_id text,
    value numeric,
    utm_source text,
    utm_medium text,
    utm_campaign text,
    utm_term text,
    utm_content text,
    gclid text,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone
);
COMMENT ON TABLE magnetis.conversions IS 'Conversions recorded by the visitor module.';
COMMENT ON COLUMN magnetis.conversions.id IS 'Identifier given by Magnetis; opaque.';
COMMENT ON COLUMN magnetis.conversions.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.conversions.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.conversions.occurred_at IS 'Moment of the event.';
COMMENT ON COLUMN magnetis.conversions.day IS 'Local day of the event in MAGNETIS_TIMEZONE: the partition.';
COMMENT ON COLUMN magnetis.conversions.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.conversions.type IS 'Type of conversion.';
COMMENT ON COLUMN magnetis.conversions.channel IS 'Marketing channel, a free label chosen by the customer, such as "Tout le SEO".';
COMMENT ON COLUMN magnetis.conversions.visit_id IS 'Journey of the conversion. Personal data: pseudonym.';
COMMENT ON COLUMN magnetis.conversions.call_id IS 'Call that the conversion counts.';
COMMENT ON COLUMN magnetis.conversions.value IS 'Value of the conversion as set by the customer.';
COMMENT ON COLUMN magnetis.conversions.utm_source IS 'Traffic source named by the campaign link.';
COMMENT ON COLUMN magnetis.conversions.utm_medium IS 'Traffic medium named by the campaign link.';
COMMENT ON COLUMN magnetis.conversions.utm_campaign IS 'Campaign named by the campaign link.';
COMMENT ON COLUMN magnetis.conversions.utm_term IS 'Search term named by the campaign link.';
COMMENT ON COLUMN magnetis.conversions.utm_content IS 'Advertisement variant named by the campaign link.';
COMMENT ON COLUMN magnetis.conversions.gclid IS 'Google Ads click identifier. Personal data: pseudonym.';
COMMENT ON COLUMN magnetis.conversions.first_seen_at IS 'Start of the first read that returned the row.';
COMMENT ON COLUMN magnetis.conversions.last_seen_at IS 'Start of the last read that changed anything in the row.';
COMMENT ON COLUMN magnetis.conversions.changed_at IS 'Start of the read in which the payload last differed.';
COMMENT ON COLUMN magnetis.conversions.deleted_at IS 'Start of the complete read that no longer returned the row.';
CREATE VIEW magnetis.conversions_current AS
 SELECT t.id,
    t.account_id,
    COALESCE(t.account_name, a.name) AS account_name,
    COALESCE(a.network_name, n.name) AS network_name,
    COALESCE(a.entity_name, n.entity_name, e.name) AS entity_name,
    t.occurred_at,
    (t.occurred_at AT TIME ZONE 'Europe/Paris'::text) AS occurred_at_local,
    t.day,
    t.type,
    t.channel,
    t.visit_id,
    t.call_id,
    t.value,
    t.utm_source,
    t.utm_medium,
    t.utm_campaign,
    t.utm_term,
    t.utm_content,
    t.gclid,
    t.first_seen_at,
    t.last_seen_at,
    t.changed_at
   FROM (((magnetis.conversions t
     LEFT JOIN magnetis.accounts a ON ((a.id = COALESCE(t.account_id))))
     LEFT JOIN magnetis.networks n ON ((n.id = COALESCE(a.network_id))))
     LEFT JOIN magnetis.entities e ON ((e.id = COALESCE(a.entity_id, n.entity_id))))
  WHERE (t.deleted_at IS NULL);
COMMENT ON VIEW magnetis.conversions_current IS 'Rows of magnetis.conversions that the API still returns, with local times and the names of account, network and entity.';
CREATE TABLE magnetis.email_alerts (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    title text,
    type text,
    recipients jsonb,
    less_than bigint,
    more_than bigint,
    enabled boolean,
    created_at timestamp with time zone,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone
);
COMMENT ON TABLE magnetis.email_alerts IS 'Alerts by e-mail on missed, custom or all calls.';
COMMENT ON COLUMN magnetis.email_alerts.id IS 'Identifier given by Magnetis; opaque.';
COMMENT ON COLUMN magnetis.email_alerts.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.email_alerts.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.email_alerts.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.email_alerts.title IS 'Title of the alert.';
COMMENT ON COLUMN magnetis.email_alerts.type IS 'Calls that trigger the alert: custom_calls, lost_calls, all_calls.';
COMMENT ON COLUMN magnetis.email_alerts.recipients IS 'Recipients of the alert. Personal data: personal.';
COMMENT ON COLUMN magnetis.email_alerts.less_than IS 'Upper bound of the call''s length (custom_calls). Unit: seconds.';
COMMENT ON COLUMN magnetis.email_alerts.more_than IS 'Lower bound of the call''s length (custom_calls). Unit: seconds.';
COMMENT ON COLUMN magnetis.email_alerts.enabled IS 'Whether it is enabled.';
COMMENT ON COLUMN magnetis.email_alerts.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.email_alerts.first_seen_at IS 'Start of the first read that returned the row.';
COMMENT ON COLUMN magnetis.email_alerts.last_seen_at IS 'Start of the last read that changed anything in the row.';
COMMENT ON COLUMN magnetis.email_alerts.changed_at IS 'Start of the read in which the payload last differed.';
COMMENT ON COLUMN magnetis.email_alerts.deleted_at IS 'Start of the complete read that no longer returned the row.';
CREATE VIEW magnetis.email_alerts_current AS
 SELECT t.id,
    t.account_id,
    COALESCE(t.account_name, a.name) AS account_name,
    COALESCE(a.network_name, n.name) AS network_name,
    COALESCE(a.entity_name, n.entity_name, e.name) AS entity_name,
    t.title,
    t.type,
    t.recipients,
    t.less_than,
    t.more_than,
    t.enabled,
    t.created_at,
    (t.created_at AT TIME ZONE 'Europe/Paris'::text) AS created_at_local,
    t.first_seen_at,
    t.last_seen_at,
    t.changed_at
   FROM (((magnetis.email_alerts t
     LEFT JOIN magnetis.accounts a ON ((a.id = COALESCE(t.account_id))))
     LEFT JOIN magnetis.networks n ON ((n.id = COALESCE(a.network_id))))
     LEFT JOIN magnetis.entities e ON ((e.id = COALESCE(a.entity_id, n.entity_id))))
  WHERE (t.deleted_at IS NULL);
COMMENT ON VIEW magnetis.email_alerts_current IS 'Rows of magnetis.email_alerts that the API still returns, with local times and the names of account, network and entity.';
CREATE TABLE magnetis.email_alerts_history (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    title text,
    type text,
    recipients jsonb,
    less_than bigint,
    more_than bigint,
    enabled boolean,
    created_at timestamp with time zone,
    valid_from timestamp with time zone NOT NULL,
    valid_to timestamp with time zone
);
COMMENT ON TABLE magnetis.email_alerts_history IS 'Versions over time. Alerts by e-mail on missed, custom or all calls.';
COMMENT ON COLUMN magnetis.email_alerts_history.id IS 'Identifier given by Magnetis.';
COMMENT ON COLUMN magnetis.email_alerts_history.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.email_alerts_history.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.email_alerts_history.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.email_alerts_history.title IS 'Title of the alert.';
COMMENT ON COLUMN magnetis.email_alerts_history.type IS 'Calls that trigger the alert: custom_calls, lost_calls, all_calls.';
COMMENT ON COLUMN magnetis.email_alerts_history.recipients IS 'Recipients of the alert. Personal data: personal.';
COMMENT ON COLUMN magnetis.email_alerts_history.less_than IS 'Upper bound of the call''s length (custom_calls). Unit: seconds.';
COMMENT ON COLUMN magnetis.email_alerts_history.more_than IS 'Lower bound of the call''s length (custom_calls). Unit: seconds.';
COMMENT ON COLUMN magnetis.email_alerts_history.enabled IS 'Whether it is enabled.';
COMMENT ON COLUMN magnetis.email_alerts_history.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.email_alerts_history.valid_from IS 'Start of the read that first saw this version.';
COMMENT ON COLUMN magnetis.email_alerts_history.valid_to IS 'Start of the read that no longer saw it; NULL: present version.';
CREATE TABLE magnetis.email_trackers (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    email text,
    name text,
    channel text,
    recipients jsonb,
    enabled boolean,
    created_at timestamp with time zone,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone
);
COMMENT ON TABLE magnetis.email_trackers IS 'Tracked e-mail addresses, which measure the e-mails per portal and point of sale.';
COMMENT ON COLUMN magnetis.email_trackers.id IS 'Identifier given by Magnetis; opaque.';
COMMENT ON COLUMN magnetis.email_trackers.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.email_trackers.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.email_trackers.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.email_trackers.email IS 'The tracked address.';
COMMENT ON COLUMN magnetis.email_trackers.name IS 'Name chosen by the customer.';
COMMENT ON COLUMN magnetis.email_trackers.channel IS 'Marketing channel, a free label chosen by the customer, such as "Tout le SEO".';
COMMENT ON COLUMN magnetis.email_trackers.recipients IS 'Addresses that e-mails are forwarded to. Personal data: personal.';
COMMENT ON COLUMN magnetis.email_trackers.enabled IS 'Whether it is enabled.';
COMMENT ON COLUMN magnetis.email_trackers.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.email_trackers.first_seen_at IS 'Start of the first read that returned the row.';
COMMENT ON COLUMN magnetis.email_trackers.last_seen_at IS 'Start of the last read that changed anything in the row.';
COMMENT ON COLUMN magnetis.email_trackers.changed_at IS 'Start of the read in which the payload last differed.';
COMMENT ON COLUMN magnetis.email_trackers.deleted_at IS 'Start of the complete read that no longer returned the row.';
CREATE VIEW magnetis.email_trackers_current AS
 SELECT t.id,
    t.account_id,
    COALESCE(t.account_name, a.name) AS account_name,
    COALESCE(a.network_name, n.name) AS network_name,
    COALESCE(a.entity_name, n.entity_name, e.name) AS entity_name,
    t.email,
    t.name,
    t.channel,
    t.recipients,
    t.enabled,
    t.created_at,
    (t.created_at AT TIME ZONE 'Europe/Paris'::text) AS created_at_local,
    t.first_seen_at,
    t.last_seen_at,
    t.changed_at
   FROM (((magnetis.email_trackers t
     LEFT JOIN magnetis.accounts a ON ((a.id = COALESCE(t.account_id))))
     LEFT JOIN magnetis.networks n ON ((n.id = COALESCE(a.network_id))))
     LEFT JOIN magnetis.entities e ON ((e.id = COALESCE(a.entity_id, n.entity_id))))
  WHERE (t.deleted_at IS NULL);
COMMENT ON VIEW magnetis.email_trackers_current IS 'Rows of magnetis.email_trackers that the API still returns, with local times and the names of account, network and entity.';
CREATE TABLE magnetis.email_trackers_history (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    email text,
    name text,
    channel text,
    recipients jsonb,
    enabled boolean,
    created_at timestamp with time zone,
    valid_from timestamp with time zone NOT NULL,
    valid_to timestamp with time zone
);
COMMENT ON TABLE magnetis.email_trackers_history IS 'Versions over time. Tracked e-mail addresses, which measure the e-mails per portal and point of sale.';
COMMENT ON COLUMN magnetis.email_trackers_history.id IS 'Identifier given by Magnetis.';
COMMENT ON COLUMN magnetis.email_trackers_history.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.email_trackers_history.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.email_trackers_history.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.email_trackers_history.email IS 'The tracked address.';
COMMENT ON COLUMN magnetis.email_trackers_history.name IS 'Name chosen by the customer.';
COMMENT ON COLUMN magnetis.email_trackers_history.channel IS 'Marketing channel, a free label chosen by the customer, such as "Tout le SEO".';
COMMENT ON COLUMN magnetis.email_trackers_history.recipients IS 'Addresses that e-mails are forwarded to. Personal data: personal.';
COMMENT ON COLUMN magnetis.email_trackers_history.enabled IS 'Whether it is enabled.';
COMMENT ON COLUMN magnetis.email_trackers_history.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.email_trackers_history.valid_from IS 'Start of the read that first saw this version.';
COMMENT ON COLUMN magnetis.email_trackers_history.valid_to IS 'Start of the read that no longer saw it; NULL: present version.';
CREATE TABLE magnetis.emails (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    day date NOT NULL,
    account_name text,
    sender text,
    subject text,
    email_tracker_id text,
    recipient text,
    channel text,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone
);
COMMENT ON TABLE magnetis.emails IS 'E-mails received on the tracked addresses.';
COMMENT ON COLUMN magnetis.emails.id IS 'Identifier given by Magnetis; opaque.';
COMMENT ON COLUMN magnetis.emails.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.emails.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.emails.occurred_at IS 'Moment of the event.';
COMMENT ON COLUMN magnetis.emails.day IS 'Local day of the event in MAGNETIS_TIMEZONE: the partition.';
COMMENT ON COLUMN magnetis.emails.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.emails.sender IS 'Sender''s address. Personal data: personal.';
COMMENT ON COLUMN magnetis.emails.subject IS 'Subject line. Personal data: personal.';
COMMENT ON COLUMN magnetis.emails.email_tracker_id IS 'Tracked address that received it.';
COMMENT ON COLUMN magnetis.emails.recipient IS 'That address as received.';
COMMENT ON COLUMN magnetis.emails.channel IS 'Marketing channel, a free label chosen by the customer, such as "Tout le SEO".';
COMMENT ON COLUMN magnetis.emails.first_seen_at IS 'Start of the first read that returned the row.';
COMMENT ON COLUMN magnetis.emails.last_seen_at IS 'Start of the last read that changed anything in the row.';
COMMENT ON COLUMN magnetis.emails.changed_at IS 'Start of the read in which the payload last differed.';
COMMENT ON COLUMN magnetis.emails.deleted_at IS 'Start of the complete read that no longer returned the row.';
CREATE VIEW magnetis.emails_current AS
 SELECT t.id,
    t.account_id,
    COALESCE(t.account_name, a.name) AS account_name,
    COALESCE(a.network_name, n.name) AS network_name,
    COALESCE(a.entity_name, n.entity_name, e.name) AS entity_name,
    t.occurred_at,
    (t.occurred_at AT TIME ZONE 'Europe/Paris'::text) AS occurred_at_local,
    t.day,
    t.sender,
    t.subject,
    t.email_tracker_id,
    t.recipient,
    t.channel,
    t.first_seen_at,
    t.last_seen_at,
    t.changed_at
   FROM (((magnetis.emails t
     LEFT JOIN magnetis.accounts a ON ((a.id = COALESCE(t.account_id))))
     LEFT JOIN magnetis.networks n ON ((n.id = COALESCE(a.network_id))))
     LEFT JOIN magnetis.entities e ON ((e.id = COALESCE(a.entity_id, n.entity_id))))
  WHERE (t.deleted_at IS NULL);
COMMENT ON VIEW magnetis.emails_current IS 'Rows of magnetis.emails that the API still returns, with local times and the names of account, network and entity.';
CREATE VIEW magnetis.entities_current AS
 SELECT id,
    account_id,
    name,
    created_at,
    (created_at AT TIME ZONE 'Europe/Paris'::text) AS created_at_local,
    first_seen_at,
    last_seen_at,
    changed_at
   FROM magnetis.entities e
  WHERE (deleted_at IS NULL);
COMMENT ON VIEW magnetis.entities_current IS 'Rows of magnetis.entities that the API still returns, with local times and the names of account, network and entity.';
CREATE TABLE magnetis.entities_history (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    name text,
    created_at timestamp with time zone,
    valid_from timestamp with time zone NOT NULL,
    valid_to timestamp with time zone
);
COMMENT ON TABLE magnetis.entities_history IS 'Versions over time. Entities, the top of the hierarchy entity > network > account.';
COMMENT ON COLUMN magnetis.entities_history.id IS 'Identifier given by Magnetis.';
COMMENT ON COLUMN magnetis.entities_history.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.entities_history.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.entities_history.name IS 'Name chosen by the customer.';
COMMENT ON COLUMN magnetis.entities_history.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.entities_history.valid_from IS 'Start of the read that first saw this version.';
COMMENT ON COLUMN magnetis.entities_history.valid_to IS 'Start of the read that no longer saw it; NULL: present version.';
CREATE TABLE magnetis.landing_pages (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    name text,
    url text,
    created_at timestamp with time zone,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone
);
COMMENT ON TABLE magnetis.landing_pages IS 'Pages where a caller books a call back; the SMS after a missed call links to them. Rows may be page contents or bookings: the vendor documents neither.';
COMMENT ON COLUMN magnetis.landing_pages.id IS 'Identifier given by Magnetis; opaque.';
COMMENT ON COLUMN magnetis.landing_pages.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.landing_pages.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.landing_pages.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.landing_pages.name IS 'Name chosen by the customer.';
COMMENT ON COLUMN magnetis.landing_pages.url IS 'Address of the page.';
COMMENT ON COLUMN magnetis.landing_pages.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.landing_pages.first_seen_at IS 'Start of the first read that returned the row.';
COMMENT ON COLUMN magnetis.landing_pages.last_seen_at IS 'Start of the last read that changed anything in the row.';
COMMENT ON COLUMN magnetis.landing_pages.changed_at IS 'Start of the read in which the payload last differed.';
COMMENT ON COLUMN magnetis.landing_pages.deleted_at IS 'Start of the complete read that no longer returned the row.';
CREATE VIEW magnetis.landing_pages_current AS
 SELECT t.id,
    t.account_id,
    COALESCE(t.account_name, a.name) AS account_name,
    COALESCE(a.network_name, n.name) AS network_name,
    COALESCE(a.entity_name, n.entity_name, e.name) AS entity_name,
    t.name,
    t.url,
    t.created_at,
    (t.created_at AT TIME ZONE 'Europe/Paris'::text) AS created_at_local,
    t.first_seen_at,
    t.last_seen_at,
    t.changed_at
   FROM (((magnetis.landing_pages t
     LEFT JOIN magnetis.accounts a ON ((a.id = COALESCE(t.account_id))))
     LEFT JOIN magnetis.networks n ON ((n.id = COALESCE(a.network_id))))
     LEFT JOIN magnetis.entities e ON ((e.id = COALESCE(a.entity_id, n.entity_id))))
  WHERE (t.deleted_at IS NULL);
COMMENT ON VIEW magnetis.landing_pages_current IS 'Rows of magnetis.landing_pages that the API still returns, with local times and the names of account, network and entity.';
CREATE TABLE magnetis.landing_pages_history (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    name text,
    url text,
    created_at timestamp with time zone,
    valid_from timestamp with time zone NOT NULL,
    valid_to timestamp with time zone
);
COMMENT ON TABLE magnetis.landing_pages_history IS 'Versions over time. Pages where a caller books a call back; the SMS after a missed call links to them. Rows may be page contents or bookings: the vendor documents neither.';
COMMENT ON COLUMN magnetis.landing_pages_history.id IS 'Identifier given by Magnetis.';
COMMENT ON COLUMN magnetis.landing_pages_history.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.landing_pages_history.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.landing_pages_history.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.landing_pages_history.name IS 'Name chosen by the customer.';
COMMENT ON COLUMN magnetis.landing_pages_history.url IS 'Address of the page.';
COMMENT ON COLUMN magnetis.landing_pages_history.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.landing_pages_history.valid_from IS 'Start of the read that first saw this version.';
COMMENT ON COLUMN magnetis.landing_pages_history.valid_to IS 'Start of the read that no longer saw it; NULL: present version.';
CREATE TABLE magnetis.leads (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    day date NOT NULL,
    account_name text,
    type text,
    call_id text,
    email_id text,
    contact_name text,
    contact_phone text,
    contact_email text,
    status text,
    channel text,
    utm_source text,
    utm_medium text,
    utm_campaign text,
    utm_term text,
    utm_content text,
    gclid text,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone
);
COMMENT ON TABLE magnetis.leads IS 'Leads, each created from a call or a tracked e-mail.';
COMMENT ON COLUMN magnetis.leads.id IS 'Identifier given by Magnetis; opaque.';
COMMENT ON COLUMN magnetis.leads.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.leads.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.leads.occurred_at IS 'Moment of the event.';
COMMENT ON COLUMN magnetis.leads.day IS 'Local day of the event in MAGNETIS_TIMEZONE: the partition.';
COMMENT ON COLUMN magnetis.leads.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.leads.type IS 'Source of the lead: call or email.';
COMMENT ON COLUMN magnetis.leads.call_id IS 'Call that the lead was created from.';
COMMENT ON COLUMN magnetis.leads.email_id IS 'E-mail that the lead was created from.';
COMMENT ON COLUMN magnetis.leads.contact_name IS 'Name of the contact. Personal data: personal.';
COMMENT ON COLUMN magnetis.leads.contact_phone IS 'Phone number of the contact. Personal data: personal.';
COMMENT ON COLUMN magnetis.leads.contact_email IS 'E-mail address of the contact. Personal data: personal.';
COMMENT ON COLUMN magnetis.leads.status IS 'Qualification of the lead.';
COMMENT ON COLUMN magnetis.leads.channel IS 'Marketing channel, a free label chosen by the customer, such as "Tout le SEO".';
COMMENT ON COLUMN magnetis.leads.utm_source IS 'Traffic source named by the campaign link.';
COMMENT ON COLUMN magnetis.leads.utm_medium IS 'Traffic medium named by the campaign link.';
COMMENT ON COLUMN magnetis.leads.utm_campaign IS 'Campaign named by the campaign link.';
COMMENT ON COLUMN magnetis.leads.utm_term IS 'Search term named by the campaign link.';
COMMENT ON COLUMN magnetis.leads.utm_content IS 'Advertisement variant named by the campaign link.';
COMMENT ON COLUMN magnetis.leads.gclid IS 'Google Ads click identifier. Personal data: pseudonym.';
COMMENT ON COLUMN magnetis.leads.first_seen_at IS 'Start of the first read that returned the row.';
COMMENT ON COLUMN magnetis.leads.last_seen_at IS 'Start of the last read that changed anything in the row.';
COMMENT ON COLUMN magnetis.leads.changed_at IS 'Start of the read in which the payload last differed.';
COMMENT ON COLUMN magnetis.leads.deleted_at IS 'Start of the complete read that no longer returned the row.';
CREATE VIEW magnetis.leads_current AS
 SELECT t.id,
    t.account_id,
    COALESCE(t.account_name, a.name) AS account_name,
    COALESCE(a.network_name, n.name) AS network_name,
    COALESCE(a.entity_name, n.entity_name, e.name) AS entity_name,
    t.occurred_at,
    (t.occurred_at AT TIME ZONE 'Europe/Paris'::text) AS occurred_at_local,
    t.day,
    t.type,
    t.call_id,
    t.email_id,
    t.contact_name,
    t.contact_phone,
    t.contact_email,
    t.status,
    t.channel,
    t.utm_source,
    t.utm_medium,
    t.utm_campaign,
    t.utm_term,
    t.utm_content,
    t.gclid,
    t.first_seen_at,
    t.last_seen_at,
    t.changed_at
   FROM (((magnetis.leads t
     LEFT JOIN magnetis.accounts a ON ((a.id = COALESCE(t.account_id))))
     LEFT JOIN magnetis.networks n ON ((n.id = COALESCE(a.network_id))))
     LEFT JOIN magnetis.entities e ON ((e.id = COALESCE(a.entity_id, n.entity_id))))
  WHERE (t.deleted_at IS NULL);
COMMENT ON VIEW magnetis.leads_current IS 'Rows of magnetis.leads that the API still returns, with local times and the names of account, network and entity.';
CREATE VIEW magnetis.networks_current AS
 SELECT n.id,
    n.account_id,
    COALESCE(n.entity_name, e.name) AS entity_name,
    n.name,
    n.entity_id,
    n.created_at,
    (n.created_at AT TIME ZONE 'Europe/Paris'::text) AS created_at_local,
    n.first_seen_at,
    n.last_seen_at,
    n.changed_at
   FROM (magnetis.networks n
     LEFT JOIN magnetis.entities e ON ((e.id = COALESCE(n.entity_id))))
  WHERE (n.deleted_at IS NULL);
COMMENT ON VIEW magnetis.networks_current IS 'Rows of magnetis.networks that the API still returns, with local times and the names of account, network and entity.';
CREATE TABLE magnetis.networks_history (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    name text,
    entity_id text,
    entity_name text,
    created_at timestamp with time zone,
    valid_from timestamp with time zone NOT NULL,
    valid_to timestamp with time zone
);
COMMENT ON TABLE magnetis.networks_history IS 'Versions over time. Networks of accounts, below an entity.';
COMMENT ON COLUMN magnetis.networks_history.id IS 'Identifier given by Magnetis.';
COMMENT ON COLUMN magnetis.networks_history.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.networks_history.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.networks_history.name IS 'Name chosen by the customer.';
COMMENT ON COLUMN magnetis.networks_history.entity_id IS 'Entity that the network belongs to.';
COMMENT ON COLUMN magnetis.networks_history.entity_name IS 'Name of that entity.';
COMMENT ON COLUMN magnetis.networks_history.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.networks_history.valid_from IS 'Start of the read that first saw this version.';
COMMENT ON COLUMN magnetis.networks_history.valid_to IS 'Start of the read that no longer saw it; NULL: present version.';
CREATE TABLE magnetis.numbers (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    number text,
    name text,
    country text,
    type text,
    channel text,
    recipient_id text,
    recipient_number text,
    pool_id text,
    enabled boolean,
    created_at timestamp with time zone,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone
);
COMMENT ON TABLE magnetis.numbers IS 'Tracked phone numbers, each dedicated to one channel and forwarded to a recipient.';
COMMENT ON COLUMN magnetis.numbers.id IS 'Identifier given by Magnetis; opaque.';
COMMENT ON COLUMN magnetis.numbers.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.numbers.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.numbers.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.numbers.number IS 'The tracked number.';
COMMENT ON COLUMN magnetis.numbers.name IS 'Label of the number (its medium).';
COMMENT ON COLUMN magnetis.numbers.country IS 'Country of the number.';
COMMENT ON COLUMN magnetis.numbers.type IS 'Type of the number.';
COMMENT ON COLUMN magnetis.numbers.channel IS 'Marketing channel, a free label chosen by the customer, such as "Tout le SEO".';
COMMENT ON COLUMN magnetis.numbers.recipient_id IS 'Recipient that calls are forwarded to.';
COMMENT ON COLUMN magnetis.numbers.recipient_number IS 'Phone number of that recipient. Personal data: personal.';
COMMENT ON COLUMN magnetis.numbers.pool_id IS 'Pool that the number belongs to.';
COMMENT ON COLUMN magnetis.numbers.enabled IS 'Whether it is enabled.';
COMMENT ON COLUMN magnetis.numbers.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.numbers.first_seen_at IS 'Start of the first read that returned the row.';
COMMENT ON COLUMN magnetis.numbers.last_seen_at IS 'Start of the last read that changed anything in the row.';
COMMENT ON COLUMN magnetis.numbers.changed_at IS 'Start of the read in which the payload last differed.';
COMMENT ON COLUMN magnetis.numbers.deleted_at IS 'Start of the complete read that no longer returned the row.';
CREATE VIEW magnetis.numbers_current AS
 SELECT t.id,
    t.account_id,
    COALESCE(t.account_name, a.name) AS account_name,
    COALESCE(a.network_name, n.name) AS network_name,
    COALESCE(a.entity_name, n.entity_name, e.name) AS entity_name,
    t.number,
    t.name,
    t.country,
    t.type,
    t.channel,
    t.recipient_id,
    t.recipient_number,
    t.pool_id,
    t.enabled,
    t.created_at,
    (t.created_at AT TIME ZONE 'Europe/Paris'::text) AS created_at_local,
    t.first_seen_at,
    t.last_seen_at,
    t.changed_at
   FROM (((magnetis.numbers t
     LEFT JOIN magnetis.accounts a ON ((a.id = COALESCE(t.account_id))))
     LEFT JOIN magnetis.networks n ON ((n.id = COALESCE(a.network_id))))
     LEFT JOIN magnetis.entities e ON ((e.id = COALESCE(a.entity_id, n.entity_id))))
  WHERE (t.deleted_at IS NULL);
COMMENT ON VIEW magnetis.numbers_current IS 'Rows of magnetis.numbers that the API still returns, with local times and the names of account, network and entity.';
CREATE TABLE magnetis.numbers_history (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    number text,
    name text,
    country text,
    type text,
    channel text,
    recipient_id text,
    recipient_number text,
    pool_id text,
    enabled boolean,
    created_at timestamp with time zone,
    valid_from timestamp with time zone NOT NULL,
    valid_to timestamp with time zone
);
COMMENT ON TABLE magnetis.numbers_history IS 'Versions over time. Tracked phone numbers, each dedicated to one channel and forwarded to a recipient.';
COMMENT ON COLUMN magnetis.numbers_history.id IS 'Identifier given by Magnetis.';
COMMENT ON COLUMN magnetis.numbers_history.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.numbers_history.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.numbers_history.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.numbers_history.number IS 'The tracked number.';
COMMENT ON COLUMN magnetis.numbers_history.name IS 'Label of the number (its medium).';
COMMENT ON COLUMN magnetis.numbers_history.country IS 'Country of the number.';
COMMENT ON COLUMN magnetis.numbers_history.type IS 'Type of the number.';
COMMENT ON COLUMN magnetis.numbers_history.channel IS 'Marketing channel, a free label chosen by the customer, such as "Tout le SEO".';
COMMENT ON COLUMN magnetis.numbers_history.recipient_id IS 'Recipient that calls are forwarded to.';
COMMENT ON COLUMN magnetis.numbers_history.recipient_number IS 'Phone number of that recipient. Personal data: personal.';
COMMENT ON COLUMN magnetis.numbers_history.pool_id IS 'Pool that the number belongs to.';
COMMENT ON COLUMN magnetis.numbers_history.enabled IS 'Whether it is enabled.';
COMMENT ON COLUMN magnetis.numbers_history.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.numbers_history.valid_from IS 'Start of the read that first saw this version.';
COMMENT ON COLUMN magnetis.numbers_history.valid_to IS 'Start of the read that no longer saw it; NULL: present version.';
CREATE TABLE magnetis.pools (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    name text,
    numbers jsonb,
    module_id text,
    enabled boolean,
    created_at timestamp with time zone,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone
);
COMMENT ON TABLE magnetis.pools IS 'Pools of tracked numbers, used by the visitor-level web module.';
COMMENT ON COLUMN magnetis.pools.id IS 'Identifier given by Magnetis; opaque.';
COMMENT ON COLUMN magnetis.pools.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.pools.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.pools.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.pools.name IS 'Name chosen by the customer.';
COMMENT ON COLUMN magnetis.pools.numbers IS 'Numbers of the pool as received.';
COMMENT ON COLUMN magnetis.pools.module_id IS 'Web module that shows the numbers.';
COMMENT ON COLUMN magnetis.pools.enabled IS 'Whether it is enabled.';
COMMENT ON COLUMN magnetis.pools.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.pools.first_seen_at IS 'Start of the first read that returned the row.';
COMMENT ON COLUMN magnetis.pools.last_seen_at IS 'Start of the last read that changed anything in the row.';
COMMENT ON COLUMN magnetis.pools.changed_at IS 'Start of the read in which the payload last differed.';
COMMENT ON COLUMN magnetis.pools.deleted_at IS 'Start of the complete read that no longer returned the row.';
CREATE VIEW magnetis.pools_current AS
 SELECT t.id,
    t.account_id,
    COALESCE(t.account_name, a.name) AS account_name,
    COALESCE(a.network_name, n.name) AS network_name,
    COALESCE(a.entity_name, n.entity_name, e.name) AS entity_name,
    t.name,
    t.numbers,
    t.module_id,
    t.enabled,
    t.created_at,
    (t.created_at AT TIME ZONE 'Europe/Paris'::text) AS created_at_local,
    t.first_seen_at,
    t.last_seen_at,
    t.changed_at
   FROM (((magnetis.pools t
     LEFT JOIN magnetis.accounts a ON ((a.id = COALESCE(t.account_id))))
     LEFT JOIN magnetis.networks n ON ((n.id = COALESCE(a.network_id))))
     LEFT JOIN magnetis.entities e ON ((e.id = COALESCE(a.entity_id, n.entity_id))))
  WHERE (t.deleted_at IS NULL);
COMMENT ON VIEW magnetis.pools_current IS 'Rows of magnetis.pools that the API still returns, with local times and the names of account, network and entity.';
CREATE TABLE magnetis.pools_history (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    name text,
    numbers jsonb,
    module_id text,
    enabled boolean,
    created_at timestamp with time zone,
    valid_from timestamp with time zone NOT NULL,
    valid_to timestamp with time zone
);
COMMENT ON TABLE magnetis.pools_history IS 'Versions over time. Pools of tracked numbers, used by the visitor-level web module.';
COMMENT ON COLUMN magnetis.pools_history.id IS 'Identifier given by Magnetis.';
COMMENT ON COLUMN magnetis.pools_history.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.pools_history.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.pools_history.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.pools_history.name IS 'Name chosen by the customer.';
COMMENT ON COLUMN magnetis.pools_history.numbers IS 'Numbers of the pool as received.';
COMMENT ON COLUMN magnetis.pools_history.module_id IS 'Web module that shows the numbers.';
COMMENT ON COLUMN magnetis.pools_history.enabled IS 'Whether it is enabled.';
COMMENT ON COLUMN magnetis.pools_history.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.pools_history.valid_from IS 'Start of the read that first saw this version.';
COMMENT ON COLUMN magnetis.pools_history.valid_to IS 'Start of the read that no longer saw it; NULL: present version.';
CREATE TABLE magnetis.recipients (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    name text,
    number text,
    country text,
    created_at timestamp with time zone,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone
);
COMMENT ON TABLE magnetis.recipients IS 'Recipients, the phone numbers that receive the forwarded calls.';
COMMENT ON COLUMN magnetis.recipients.id IS 'Identifier given by Magnetis; opaque.';
COMMENT ON COLUMN magnetis.recipients.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.recipients.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.recipients.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.recipients.name IS 'Name chosen by the customer. Personal data: personal.';
COMMENT ON COLUMN magnetis.recipients.number IS 'Phone number that receives the calls. Personal data: personal.';
COMMENT ON COLUMN magnetis.recipients.country IS 'Country of the number.';
COMMENT ON COLUMN magnetis.recipients.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.recipients.first_seen_at IS 'Start of the first read that returned the row.';
COMMENT ON COLUMN magnetis.recipients.last_seen_at IS 'Start of the last read that changed anything in the row.';
COMMENT ON COLUMN magnetis.recipients.changed_at IS 'Start of the read in which the payload last differed.';
COMMENT ON COLUMN magnetis.recipients.deleted_at IS 'Start of the complete read that no longer returned the row.';
CREATE VIEW magnetis.recipients_current AS
 SELECT t.id,
    t.account_id,
    COALESCE(t.account_name, a.name) AS account_name,
    COALESCE(a.network_name, n.name) AS network_name,
    COALESCE(a.entity_name, n.entity_name, e.name) AS entity_name,
    t.name,
    t.number,
    t.country,
    t.created_at,
    (t.created_at AT TIME ZONE 'Europe/Paris'::text) AS created_at_local,
    t.first_seen_at,
    t.last_seen_at,
    t.changed_at
   FROM (((magnetis.recipients t
     LEFT JOIN magnetis.accounts a ON ((a.id = COALESCE(t.account_id))))
     LEFT JOIN magnetis.networks n ON ((n.id = COALESCE(a.network_id))))
     LEFT JOIN magnetis.entities e ON ((e.id = COALESCE(a.entity_id, n.entity_id))))
  WHERE (t.deleted_at IS NULL);
COMMENT ON VIEW magnetis.recipients_current IS 'Rows of magnetis.recipients that the API still returns, with local times and the names of account, network and entity.';
CREATE TABLE magnetis.recipients_history (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    name text,
    number text,
    country text,
    created_at timestamp with time zone,
    valid_from timestamp with time zone NOT NULL,
    valid_to timestamp with time zone
);
COMMENT ON TABLE magnetis.recipients_history IS 'Versions over time. Recipients, the phone numbers that receive the forwarded calls.';
COMMENT ON COLUMN magnetis.recipients_history.id IS 'Identifier given by Magnetis.';
COMMENT ON COLUMN magnetis.recipients_history.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.recipients_history.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.recipients_history.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.recipients_history.name IS 'Name chosen by the customer. Personal data: personal.';
COMMENT ON COLUMN magnetis.recipients_history.number IS 'Phone number that receives the calls. Personal data: personal.';
COMMENT ON COLUMN magnetis.recipients_history.country IS 'Country of the number.';
COMMENT ON COLUMN magnetis.recipients_history.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.recipients_history.valid_from IS 'Start of the read that first saw this version.';
COMMENT ON COLUMN magnetis.recipients_history.valid_to IS 'Start of the read that no longer saw it; NULL: present version.';
CREATE TABLE magnetis.reports (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    title text,
    type text,
    frequency text,
    recipients jsonb,
    enabled boolean,
    created_at timestamp with time zone,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone
);
COMMENT ON TABLE magnetis.reports IS 'Settings of the statistical reports by e-mail, without the statistics.';
COMMENT ON COLUMN magnetis.reports.id IS 'Identifier given by Magnetis; opaque.';
COMMENT ON COLUMN magnetis.reports.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.reports.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.reports.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.reports.title IS 'Title of the report.';
COMMENT ON COLUMN magnetis.reports.type IS 'Type of report.';
COMMENT ON COLUMN magnetis.reports.frequency IS 'How often the report is sent.';
COMMENT ON COLUMN magnetis.reports.recipients IS 'Addresses that receive the report. Personal data: personal.';
COMMENT ON COLUMN magnetis.reports.enabled IS 'Whether it is enabled.';
COMMENT ON COLUMN magnetis.reports.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.reports.first_seen_at IS 'Start of the first read that returned the row.';
COMMENT ON COLUMN magnetis.reports.last_seen_at IS 'Start of the last read that changed anything in the row.';
COMMENT ON COLUMN magnetis.reports.changed_at IS 'Start of the read in which the payload last differed.';
COMMENT ON COLUMN magnetis.reports.deleted_at IS 'Start of the complete read that no longer returned the row.';
CREATE VIEW magnetis.reports_current AS
 SELECT t.id,
    t.account_id,
    COALESCE(t.account_name, a.name) AS account_name,
    COALESCE(a.network_name, n.name) AS network_name,
    COALESCE(a.entity_name, n.entity_name, e.name) AS entity_name,
    t.title,
    t.type,
    t.frequency,
    t.recipients,
    t.enabled,
    t.created_at,
    (t.created_at AT TIME ZONE 'Europe/Paris'::text) AS created_at_local,
    t.first_seen_at,
    t.last_seen_at,
    t.changed_at
   FROM (((magnetis.reports t
     LEFT JOIN magnetis.accounts a ON ((a.id = COALESCE(t.account_id))))
     LEFT JOIN magnetis.networks n ON ((n.id = COALESCE(a.network_id))))
     LEFT JOIN magnetis.entities e ON ((e.id = COALESCE(a.entity_id, n.entity_id))))
  WHERE (t.deleted_at IS NULL);
COMMENT ON VIEW magnetis.reports_current IS 'Rows of magnetis.reports that the API still returns, with local times and the names of account, network and entity.';
CREATE TABLE magnetis.reports_history (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    title text,
    type text,
    frequency text,
    recipients jsonb,
    enabled boolean,
    created_at timestamp with time zone,
    valid_from timestamp with time zone NOT NULL,
    valid_to timestamp with time zone
);
COMMENT ON TABLE magnetis.reports_history IS 'Versions over time. Settings of the statistical reports by e-mail, without the statistics.';
COMMENT ON COLUMN magnetis.reports_history.id IS 'Identifier given by Magnetis.';
COMMENT ON COLUMN magnetis.reports_history.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.reports_history.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.reports_history.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.reports_history.title IS 'Title of the report.';
COMMENT ON COLUMN magnetis.reports_history.type IS 'Type of report.';
COMMENT ON COLUMN magnetis.reports_history.frequency IS 'How often the report is sent.';
COMMENT ON COLUMN magnetis.reports_history.recipients IS 'Addresses that receive the report. Personal data: personal.';
COMMENT ON COLUMN magnetis.reports_history.enabled IS 'Whether it is enabled.';
COMMENT ON COLUMN magnetis.reports_history.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.reports_history.valid_from IS 'Start of the read that first saw this version.';
COMMENT ON COLUMN magnetis.reports_history.valid_to IS 'Start of the read that no longer saw it; NULL: present version.';
CREATE TABLE magnetis.sms_alerts_history (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    title text,
    type text,
    recipients jsonb,
    less_than bigint,
    more_than bigint,
    enabled boolean,
    created_at timestamp with time zone,
    valid_from timestamp with time zone NOT NULL,
    valid_to timestamp with time zone
);
COMMENT ON TABLE magnetis.sms_alerts_history IS 'Versions over time. Alerts by SMS on missed, custom or all calls.';
COMMENT ON COLUMN magnetis.sms_alerts_history.id IS 'Identifier given by Magnetis.';
COMMENT ON COLUMN magnetis.sms_alerts_history.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.sms_alerts_history.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.sms_alerts_history.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.sms_alerts_history.title IS 'Title of the alert.';
COMMENT ON COLUMN magnetis.sms_alerts_history.type IS 'Calls that trigger the alert: custom_calls, lost_calls, all_calls.';
COMMENT ON COLUMN magnetis.sms_alerts_history.recipients IS 'Recipients of the alert. Personal data: personal.';
COMMENT ON COLUMN magnetis.sms_alerts_history.less_than IS 'Upper bound of the call''s length (custom_calls). Unit: seconds.';
COMMENT ON COLUMN magnetis.sms_alerts_history.more_than IS 'Lower bound of the call''s length (custom_calls). Unit: seconds.';
COMMENT ON COLUMN magnetis.sms_alerts_history.enabled IS 'Whether it is enabled.';
COMMENT ON COLUMN magnetis.sms_alerts_history.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.sms_alerts_history.valid_from IS 'Start of the read that first saw this version.';
COMMENT ON COLUMN magnetis.sms_alerts_history.valid_to IS 'Start of the read that no longer saw it; NULL: present version.';
CREATE TABLE magnetis_ops.windows (
    id bigint NOT NULL,
    collection text NOT NULL,
    first_day date NOT NULL,
    last_day date NOT NULL,
    read_at timestamp with time zone NOT NULL,
    committed_at timestamp with time zone NOT NULL,
    announced integer NOT NULL,
    received integer NOT NULL,
    padding integer NOT NULL,
    held integer NOT NULL,
    quarantined integer NOT NULL,
    inserted integer NOT NULL,
    changed integer NOT NULL,
    deleted integer NOT NULL,
    api_calls integer NOT NULL,
    bytes bigint NOT NULL,
    milliseconds integer NOT NULL,
    run_id text,
    witness_calls integer DEFAULT 0 NOT NULL
);
COMMENT ON TABLE magnetis_ops.windows IS 'One row per complete window, committed with its rows.';
COMMENT ON COLUMN magnetis_ops.windows.last_day IS 'Inclusive.';
COMMENT ON COLUMN magnetis_ops.windows.read_at IS 'Start of the read: its rows are at least this fresh.';
COMMENT ON COLUMN magnetis_ops.windows.announced IS 'meta.total of the window, padding included.';
COMMENT ON COLUMN magnetis_ops.windows.received IS 'Distinct rows received.';
COMMENT ON COLUMN magnetis_ops.windows.padding IS 'Rows outside the requested days.';
COMMENT ON COLUMN magnetis_ops.windows.held IS 'Rows that the table contains for the requested days.';
COMMENT ON COLUMN magnetis_ops.windows.witness_calls IS 'API calls among them that only verified the window.';
CREATE VIEW magnetis.settings_changes AS
 SELECT v.changed_at,
    v.collection,
    v.account_id,
    v.setting_id,
    v.title,
    v.kind,
    f.changes,
    v.account_name
   FROM (( SELECT h.valid_from AS changed_at,
            'reports'::text AS collection,
            h.account_id,
            h.id AS setting_id,
            h.title,
            COALESCE(h.account_name, ( SELECT a.name
                   FROM magnetis.accounts a
                  WHERE (a.id = h.account_id))) AS account_name,
                CASE
                    WHEN (p.id IS NOT NULL) THEN 'changed'::text
                    WHEN (h.valid_from <= ( SELECT min(w.read_at) AS min
                       FROM magnetis_ops.windows w
                      WHERE (w.collection = 'reports'::text))) THEN 'first_seen'::text
                    ELSE 'added'::text
                END AS kind,
                CASE jsonb_typeof(p.payload)
                    WHEN 'object'::text THEN (p.payload - ARRAY( SELECT o1.n
                       FROM jsonb_each(p.payload) o1(n, v)
                      WHERE (translate(lower((o1.n COLLATE "C")), '_-. '::text, ''::text) = ANY (ARRAY['lastdeliveryat'::text, 'lasterrorat'::text, 'lastrunat'::text, 'lastsendat'::text, 'lastsent'::text, 'lastsentat'::text, 'lasttriggered'::text, 'lasttriggeredat'::text, 'nextrunat'::text, 'nextsendat'::text, 'nextsentat'::text, 'sendcount'::text, 'sendscount'::text, 'sentat'::text, 'sentcount'::text, 'triggercount'::text, 'triggeredat'::text, 'triggeredcount'::text, 'triggerscount'::text]))))
                    ELSE p.payload
                END AS old,
                CASE jsonb_typeof(h.payload)
                    WHEN 'object'::text THEN (h.payload - ARRAY( SELECT o1.n
                       FROM jsonb_each(h.payload) o1(n, v)
                      WHERE (translate(lower((o1.n COLLATE "C")), '_-. '::text, ''::text) = ANY (ARRAY['lastdeliveryat'::text, 'lasterrorat'::text, 'lastrunat'::text, 'lastsendat'::text, 'lastsent'::text, 'lastsentat'::text, 'lasttriggered'::text, 'lasttriggeredat'::text, 'nextrunat'::text, 'nextsendat'::text, 'nextsentat'::text, 'sendcount'::text, 'sendscount'::text, 'sentat'::text, 'sentcount'::text, 'triggercount'::text, 'triggeredat'::text, 'triggeredcount'::text, 'triggerscount'::text]))))
                    ELSE h.payload
                END AS new
           FROM (magnetis.reports_history h
             LEFT JOIN magnetis.reports_history p ON (((p.id = h.id) AND (p.valid_to = h.valid_from))))
          WHERE ((p.id IS NULL) OR (NOT
                CASE
                    WHEN (NOT (p.payload IS DISTINCT FROM h.payload)) THEN true
                    ELSE (NOT (
                    CASE jsonb_typeof(p.payload)
                        WHEN 'object'::text THEN (p.payload - ARRAY( SELECT o1.n
                           FROM jsonb_each(p.payload) o1(n, v)
                          WHERE (translate(lower((o1.n COLLATE "C")), '_-. '::text, ''::text) = ANY (ARRAY['lastdeliveryat'::text, 'lasterrorat'::text, 'lastrunat'::text, 'lastsendat'::text, 'lastsent'::text, 'lastsentat'::text, 'lasttriggered'::text, 'lasttriggeredat'::text, 'nextrunat'::text, 'nextsendat'::text, 'nextsentat'::text, 'sendcount'::text, 'sendscount'::text, 'sentat'::text, 'sentcount'::text, 'triggercount'::text, 'triggeredat'::text, 'triggeredcount'::text, 'triggerscount'::text]))))
                        ELSE p.payload
                    END IS DISTINCT FROM
                    CASE jsonb_typeof(h.payload)
                        WHEN 'object'::text THEN (h.payload - ARRAY( SELECT o1.n
                           FROM jsonb_each(h.payload) o1(n, v)
                          WHERE (translate(lower((o1.n COLLATE "C")), '_-. '::text, ''::text) = ANY (ARRAY['lastdeliveryat'::text, 'lasterrorat'::text, 'lastrunat'::text, 'lastsendat'::text, 'lastsent'::text, 'lastsentat'::text, 'lasttriggered'::text, 'lasttriggeredat'::text, 'nextrunat'::text, 'nextsendat'::text, 'nextsentat'::text, 'sendcount'::text, 'sendscount'::text, 'sentat'::text, 'sentcount'::text, 'triggercount'::text, 'triggeredat'::text, 'triggeredcount'::text, 'triggerscount'::text]))))
                        ELSE h.payload
                    END))
                END))
        UNION ALL
         SELECT h.valid_to AS changed_at,
            'reports'::text AS collection,
            h.account_id,
            h.id AS setting_id,
            h.title,
            COALESCE(h.account_name, ( SELECT a.name
                   FROM magnetis.accounts a
                  WHERE (a.id = h.account_id))) AS account_name,
            'removed'::text AS kind,
                CASE jsonb_typeof(h.payload)
                    WHEN 'object'::text THEN (h.payload - ARRAY( SELECT o1.n
                       FROM jsonb_each(h.payload) o1(n, v)
                      WHERE (translate(lower((o1.n COLLATE "C")), '_-. '::text, ''::text) = ANY (ARRAY['lastdeliveryat'::text, 'lasterrorat'::text, 'lastrunat'::text, 'lastsendat'::text, 'lastsent'::text, 'lastsentat'::text, 'lasttriggered'::text, 'lasttriggeredat'::text, 'nextrunat'::text, 'nextsendat'::text, 'nextsentat'::text, 'sendcount'::text, 'sendscount'::text, 'sentat'::text, 'sentcount'::text, 'triggercount'::text, 'triggeredat'::text, 'triggeredcount'::text, 'triggerscount'::text]))))
                    ELSE h.payload
                END AS old,
            NULL::jsonb AS new
           FROM magnetis.reports_history h
          WHERE ((h.valid_to IS NOT NULL) AND (NOT (EXISTS ( SELECT
                   FROM magnetis.reports_history n
                  WHERE ((n.id = h.id) AND (n.valid_from = h.valid_to))))))
        UNION ALL
         SELECT h.valid_from AS changed_at,
            'email_alerts'::text AS collection,
            h.account_id,
            h.id AS setting_id,
            h.title,
            COALESCE(h.account_name, ( SELECT a.name
                   FROM magnetis.accounts a
                  WHERE (a.id = h.account_id))) AS account_name,
                CASE
                    WHEN (p.id IS NOT NULL) THEN 'changed'::text
                    WHEN (h.valid_from <= ( SELECT min(w.read_at) AS min
                       FROM magnetis_ops.windows w
                      WHERE (w.collection = 'email_alerts'::text))) THEN 'first_seen'::text
                    ELSE 'added'::text
                END AS kind,
                CASE jsonb_typeof(p.payload)
                    WHEN 'object'::text THEN (p.payload - ARRAY( SELECT o1.n
                       FROM jsonb_each(p.payload) o1(n, v)
                      WHERE (translate(lower((o1.n COLLATE "C")), '_-. '::text, ''::text) = ANY (ARRAY['lastdeliveryat'::text, 'lasterrorat'::text, 'lastrunat'::text, 'lastsendat'::text, 'lastsent'::text, 'lastsentat'::text, 'lasttriggered'::text, 'lasttriggeredat'::text, 'nextrunat'::text, 'nextsendat'::text, 'nextsentat'::text, 'sendcount'::text, 'sendscount'::text, 'sentat'::text, 'sentcount'::text, 'triggercount'::text, 'triggeredat'::text, 'triggeredcount'::text, 'triggerscount'::text]))))
                    ELSE p.payload
                END AS old,
                CASE jsonb_typeof(h.payload)
                    WHEN 'object'::text THEN (h.payload - ARRAY( SELECT o1.n
                       FROM jsonb_each(h.payload) o1(n, v)
                      WHERE (translate(lower((o1.n COLLATE "C")), '_-. '::text, ''::text) = ANY (ARRAY['lastdeliveryat'::text, 'lasterrorat'::text, 'lastrunat'::text, 'lastsendat'::text, 'lastsent'::text, 'lastsentat'::text, 'lasttriggered'::text, 'lasttriggeredat'::text, 'nextrunat'::text, 'nextsendat'::text, 'nextsentat'::text, 'sendcount'::text, 'sendscount'::text, 'sentat'::text, 'sentcount'::text, 'triggercount'::text, 'triggeredat'::text, 'triggeredcount'::text, 'triggerscount'::text]))))
                    ELSE h.payload
                END AS new
           FROM (magnetis.email_alerts_history h
             LEFT JOIN magnetis.email_alerts_history p ON (((p.id = h.id) AND (p.valid_to = h.valid_from))))
          WHERE ((p.id IS NULL) OR (NOT
                CASE
                    WHEN (NOT (p.payload IS DISTINCT FROM h.payload)) THEN true
                    ELSE (NOT (
                    CASE jsonb_typeof(p.payload)
                        WHEN 'object'::text THEN (p.payload - ARRAY( SELECT o1.n
                           FROM jsonb_each(p.payload) o1(n, v)
                          WHERE (translate(lower((o1.n COLLATE "C")), '_-. '::text, ''::text) = ANY (ARRAY['lastdeliveryat'::text, 'lasterrorat'::text, 'lastrunat'::text, 'lastsendat'::text, 'lastsent'::text, 'lastsentat'::text, 'lasttriggered'::text, 'lasttriggeredat'::text, 'nextrunat'::text, 'nextsendat'::text, 'nextsentat'::text, 'sendcount'::text, 'sendscount'::text, 'sentat'::text, 'sentcount'::text, 'triggercount'::text, 'triggeredat'::text, 'triggeredcount'::text, 'triggerscount'::text]))))
                        ELSE p.payload
                    END IS DISTINCT FROM
                    CASE jsonb_typeof(h.payload)
                        WHEN 'object'::text THEN (h.payload - ARRAY( SELECT o1.n
                           FROM jsonb_each(h.payload) o1(n, v)
                          WHERE (translate(lower((o1.n COLLATE "C")), '_-. '::text, ''::text) = ANY (ARRAY['lastdeliveryat'::text, 'lasterrorat'::text, 'lastrunat'::text, 'lastsendat'::text, 'lastsent'::text, 'lastsentat'::text, 'lasttriggered'::text, 'lasttriggeredat'::text, 'nextrunat'::text, 'nextsendat'::text, 'nextsentat'::text, 'sendcount'::text, 'sendscount'::text, 'sentat'::text, 'sentcount'::text, 'triggercount'::text, 'triggeredat'::text, 'triggeredcount'::text, 'triggerscount'::text]))))
                        ELSE h.payload
                    END))
                END))
        UNION ALL
         SELECT h.valid_to AS changed_at,
            'email_alerts'::text AS collection,
            h.account_id,
            h.id AS setting_id,
            h.title,
            COALESCE(h.account_name, ( SELECT a.name
                   FROM magnetis.accounts a
                  WHERE (a.id = h.account_id))) AS account_name,
            'removed'::text AS kind,
                CASE jsonb_typeof(h.payload)
                    WHEN 'object'::text THEN (h.payload - ARRAY( SELECT o1.n
                       FROM jsonb_each(h.payload) o1(n, v)
                      WHERE (translate(lower((o1.n COLLATE "C")), '_-. '::text, ''::text) = ANY (ARRAY['lastdeliveryat'::text, 'lasterrorat'::text, 'lastrunat'::text, 'lastsendat'::text, 'lastsent'::text, 'lastsentat'::text, 'lasttriggered'::text, 'lasttriggeredat'::text, 'nextrunat'::text, 'nextsendat'::text, 'nextsentat'::text, 'sendcount'::text, 'sendscount'::text, 'sentat'::text, 'sentcount'::text, 'triggercount'::text, 'triggeredat'::text, 'triggeredcount'::text, 'triggerscount'::text]))))
                    ELSE h.payload
                END AS old,
            NULL::jsonb AS new
           FROM magnetis.email_alerts_history h
          WHERE ((h.valid_to IS NOT NULL) AND (NOT (EXISTS ( SELECT
                   FROM magnetis.email_alerts_history n
                  WHERE ((n.id = h.id) AND (n.valid_from = h.valid_to))))))
        UNION ALL
         SELECT h.valid_from AS changed_at,
            'sms_alerts'::text AS collection,
            h.account_id,
            h.id AS setting_id,
            h.title,
            COALESCE(h.account_name, ( SELECT a.name
                   FROM magnetis.accounts a
                  WHERE (a.id = h.account_id))) AS account_name,
                CASE
                    WHEN (p.id IS NOT NULL) THEN 'changed'::text
                    WHEN (h.valid_from <= ( SELECT min(w.read_at) AS min
                       FROM magnetis_ops.windows w
                      WHERE (w.collection = 'sms_alerts'::text))) THEN 'first_seen'::text
                    ELSE 'added'::text
                END AS kind,
                CASE jsonb_typeof(p.payload)
                    WHEN 'object'::text THEN (p.payload - ARRAY( SELECT o1.n
                       FROM jsonb_each(p.payload) o1(n, v)
                      WHERE (translate(lower((o1.n COLLATE "C")), '_-. '::text, ''::text) = ANY (ARRAY['lastdeliveryat'::text, 'lasterrorat'::text, 'lastrunat'::text, 'lastsendat'::text, 'lastsent'::text, 'lastsentat'::text, 'lasttriggered'::text, 'lasttriggeredat'::text, 'nextrunat'::text, 'nextsendat'::text, 'nextsentat'::text, 'sendcount'::text, 'sendscount'::text, 'sentat'::text, 'sentcount'::text, 'triggercount'::text, 'triggeredat'::text, 'triggeredcount'::text, 'triggerscount'::text]))))
                    ELSE p.payload
                END AS old,
                CASE jsonb_typeof(h.payload)
                    WHEN 'object'::text THEN (h.payload - ARRAY( SELECT o1.n
                       FROM jsonb_each(h.payload) o1(n, v)
                      WHERE (translate(lower((o1.n COLLATE "C")), '_-. '::text, ''::text) = ANY (ARRAY['lastdeliveryat'::text, 'lasterrorat'::text, 'lastrunat'::text, 'lastsendat'::text, 'lastsent'::text, 'lastsentat'::text, 'lasttriggered'::text, 'lasttriggeredat'::text, 'nextrunat'::text, 'nextsendat'::text, 'nextsentat'::text, 'sendcount'::text, 'sendscount'::text, 'sentat'::text, 'sentcount'::text, 'triggercount'::text, 'triggeredat'::text, 'triggeredcount'::text, 'triggerscount'::text]))))
                    ELSE h.payload
                END AS new
           FROM (magnetis.sms_alerts_history h
             LEFT JOIN magnetis.sms_alerts_history p ON (((p.id = h.id) AND (p.valid_to = h.valid_from))))
          WHERE ((p.id IS NULL) OR (NOT
                CASE
                    WHEN (NOT (p.payload IS DISTINCT FROM h.payload)) THEN true
                    ELSE (NOT (
                    CASE jsonb_typeof(p.payload)
                        WHEN 'object'::text THEN (p.payload - ARRAY( SELECT o1.n
                           FROM jsonb_each(p.payload) o1(n, v)
                          WHERE (translate(lower((o1.n COLLATE "C")), '_-. '::text, ''::text) = ANY (ARRAY['lastdeliveryat'::text, 'lasterrorat'::text, 'lastrunat'::text, 'lastsendat'::text, 'lastsent'::text, 'lastsentat'::text, 'lasttriggered'::text, 'lasttriggeredat'::text, 'nextrunat'::text, 'nextsendat'::text, 'nextsentat'::text, 'sendcount'::text, 'sendscount'::text, 'sentat'::text, 'sentcount'::text, 'triggercount'::text, 'triggeredat'::text, 'triggeredcount'::text, 'triggerscount'::text]))))
                        ELSE p.payload
                    END IS DISTINCT FROM
                    CASE jsonb_typeof(h.payload)
                        WHEN 'object'::text THEN (h.payload - ARRAY( SELECT o1.n
                           FROM jsonb_each(h.payload) o1(n, v)
                          WHERE (translate(lower((o1.n COLLATE "C")), '_-. '::text, ''::text) = ANY (ARRAY['lastdeliveryat'::text, 'lasterrorat'::text, 'lastrunat'::text, 'lastsendat'::text, 'lastsent'::text, 'lastsentat'::text, 'lasttriggered'::text, 'lasttriggeredat'::text, 'nextrunat'::text, 'nextsendat'::text, 'nextsentat'::text, 'sendcount'::text, 'sendscount'::text, 'sentat'::text, 'sentcount'::text, 'triggercount'::text, 'triggeredat'::text, 'triggeredcount'::text, 'triggerscount'::text]))))
                        ELSE h.payload
                    END))
                END))
        UNION ALL
         SELECT h.valid_to AS changed_at,
            'sms_alerts'::text AS collection,
            h.account_id,
            h.id AS setting_id,
            h.title,
            COALESCE(h.account_name, ( SELECT a.name
                   FROM magnetis.accounts a
                  WHERE (a.id = h.account_id))) AS account_name,
            'removed'::text AS kind,
                CASE jsonb_typeof(h.payload)
                    WHEN 'object'::text THEN (h.payload - ARRAY( SELECT o1.n
                       FROM jsonb_each(h.payload) o1(n, v)
                      WHERE (translate(lower((o1.n COLLATE "C")), '_-. '::text, ''::text) = ANY (ARRAY['lastdeliveryat'::text, 'lasterrorat'::text, 'lastrunat'::text, 'lastsendat'::text, 'lastsent'::text, 'lastsentat'::text, 'lasttriggered'::text, 'lasttriggeredat'::text, 'nextrunat'::text, 'nextsendat'::text, 'nextsentat'::text, 'sendcount'::text, 'sendscount'::text, 'sentat'::text, 'sentcount'::text, 'triggercount'::text, 'triggeredat'::text, 'triggeredcount'::text, 'triggerscount'::text]))))
                    ELSE h.payload
                END AS old,
            NULL::jsonb AS new
           FROM magnetis.sms_alerts_history h
          WHERE ((h.valid_to IS NOT NULL) AND (NOT (EXISTS ( SELECT
                   FROM magnetis.sms_alerts_history n
                  WHERE ((n.id = h.id) AND (n.valid_from = h.valid_to))))))) v
     CROSS JOIN LATERAL ( SELECT COALESCE(jsonb_object_agg(COALESCE(o.key, n.key), jsonb_build_object('old', o.value, 'new', n.value)), '{}'::jsonb) AS changes
           FROM (jsonb_each(v.old) o(key, value)
             FULL JOIN jsonb_each(v.new) n(key, value) ON ((n.key = o.key)))
          WHERE (o.value IS DISTINCT FROM n.value)) f);
COMMENT ON VIEW magnetis.settings_changes IS 'Changes of report and alert settings, one row per change. May hold personal data.';
COMMENT ON COLUMN magnetis.settings_changes.changed_at IS 'Start of the read that first saw the change.';
COMMENT ON COLUMN magnetis.settings_changes.collection IS 'Collection that the setting belongs to.';
COMMENT ON COLUMN magnetis.settings_changes.account_id IS 'Account that the setting belongs to; of a removed setting, the last known one.';
COMMENT ON COLUMN magnetis.settings_changes.setting_id IS 'Identifier given by Magnetis.';
COMMENT ON COLUMN magnetis.settings_changes.title IS 'Title of the setting; of a removed setting, the last known one.';
COMMENT ON COLUMN magnetis.settings_changes.kind IS 'first_seen (in the first snapshot of its collection), added, changed or removed.';
COMMENT ON COLUMN magnetis.settings_changes.changes IS 'Members of the row that differ, except volatile ones: {member: {old, new}}; null: no such member. May contain personal data.';
COMMENT ON COLUMN magnetis.settings_changes.account_name IS 'Name of that account.';
CREATE TABLE magnetis.sms_alerts (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    title text,
    type text,
    recipients jsonb,
    less_than bigint,
    more_than bigint,
    enabled boolean,
    created_at timestamp with time zone,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone
);
COMMENT ON TABLE magnetis.sms_alerts IS 'Alerts by SMS on missed, custom or all calls.';
COMMENT ON COLUMN magnetis.sms_alerts.id IS 'Identifier given by Magnetis; opaque.';
COMMENT ON COLUMN magnetis.sms_alerts.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.sms_alerts.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.sms_alerts.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.sms_alerts.title IS 'Title of the alert.';
COMMENT ON COLUMN magnetis.sms_alerts.type IS 'Calls that trigger the alert: custom_calls, lost_calls, all_calls.';
COMMENT ON COLUMN magnetis.sms_alerts.recipients IS 'Recipients of the alert. Personal data: personal.';
COMMENT ON COLUMN magnetis.sms_alerts.less_than IS 'Upper bound of the call''s length (custom_calls). Unit: seconds.';
COMMENT ON COLUMN magnetis.sms_alerts.more_than IS 'Lower bound of the call''s length (custom_calls). Unit: seconds.';
COMMENT ON COLUMN magnetis.sms_alerts.enabled IS 'Whether it is enabled.';
COMMENT ON COLUMN magnetis.sms_alerts.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.sms_alerts.first_seen_at IS 'Start of the first read that returned the row.';
COMMENT ON COLUMN magnetis.sms_alerts.last_seen_at IS 'Start of the last read that changed anything in the row.';
COMMENT ON COLUMN magnetis.sms_alerts.changed_at IS 'Start of the read in which the payload last differed.';
COMMENT ON COLUMN magnetis.sms_alerts.deleted_at IS 'Start of the complete read that no longer returned the row.';
CREATE VIEW magnetis.sms_alerts_current AS
 SELECT t.id,
    t.account_id,
    COALESCE(t.account_name, a.name) AS account_name,
    COALESCE(a.network_name, n.name) AS network_name,
    COALESCE(a.entity_name, n.entity_name, e.name) AS entity_name,
    t.title,
    t.type,
    t.recipients,
    t.less_than,
    t.more_than,
    t.enabled,
    t.created_at,
    (t.created_at AT TIME ZONE 'Europe/Paris'::text) AS created_at_local,
    t.first_seen_at,
    t.last_seen_at,
    t.changed_at
   FROM (((magnetis.sms_alerts t
     LEFT JOIN magnetis.accounts a ON ((a.id = COALESCE(t.account_id))))
     LEFT JOIN magnetis.networks n ON ((n.id = COALESCE(a.network_id))))
     LEFT JOIN magnetis.entities e ON ((e.id = COALESCE(a.entity_id, n.entity_id))))
  WHERE (t.deleted_at IS NULL);
COMMENT ON VIEW magnetis.sms_alerts_current IS 'Rows of magnetis.sms_alerts that the API still returns, with local times and the names of account, network and entity.';
CREATE TABLE magnetis.sms_messages (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    name text,
    content text,
    created_at timestamp with time zone,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone
);
COMMENT ON TABLE magnetis.sms_messages IS 'SMS that link to a landing page, sent to callers after a missed call. Rows may be texts or sent messages: the vendor documents neither.';
COMMENT ON COLUMN magnetis.sms_messages.id IS 'Identifier given by Magnetis; opaque.';
COMMENT ON COLUMN magnetis.sms_messages.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.sms_messages.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.sms_messages.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.sms_messages.name IS 'Name chosen by the customer.';
COMMENT ON COLUMN magnetis.sms_messages.content IS 'Text of the message.';
COMMENT ON COLUMN magnetis.sms_messages.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.sms_messages.first_seen_at IS 'Start of the first read that returned the row.';
COMMENT ON COLUMN magnetis.sms_messages.last_seen_at IS 'Start of the last read that changed anything in the row.';
COMMENT ON COLUMN magnetis.sms_messages.changed_at IS 'Start of the read in which the payload last differed.';
COMMENT ON COLUMN magnetis.sms_messages.deleted_at IS 'Start of the complete read that no longer returned the row.';
CREATE VIEW magnetis.sms_messages_current AS
 SELECT t.id,
    t.account_id,
    COALESCE(t.account_name, a.name) AS account_name,
    COALESCE(a.network_name, n.name) AS network_name,
    COALESCE(a.entity_name, n.entity_name, e.name) AS entity_name,
    t.name,
    t.content,
    t.created_at,
    (t.created_at AT TIME ZONE 'Europe/Paris'::text) AS created_at_local,
    t.first_seen_at,
    t.last_seen_at,
    t.changed_at
   FROM (((magnetis.sms_messages t
     LEFT JOIN magnetis.accounts a ON ((a.id = COALESCE(t.account_id))))
     LEFT JOIN magnetis.networks n ON ((n.id = COALESCE(a.network_id))))
     LEFT JOIN magnetis.entities e ON ((e.id = COALESCE(a.entity_id, n.entity_id))))
  WHERE (t.deleted_at IS NULL);
COMMENT ON VIEW magnetis.sms_messages_current IS 'Rows of magnetis.sms_messages that the API still returns, with local times and the names of account, network and entity.';
CREATE TABLE magnetis.sms_messages_history (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    account_name text,
    name text,
    content text,
    created_at timestamp with time zone,
    valid_from timestamp with time zone NOT NULL,
    valid_to timestamp with time zone
);
COMMENT ON TABLE magnetis.sms_messages_history IS 'Versions over time. SMS that link to a landing page, sent to callers after a missed call. Rows may be texts or sent messages: the vendor documents neither.';
COMMENT ON COLUMN magnetis.sms_messages_history.id IS 'Identifier given by Magnetis.';
COMMENT ON COLUMN magnetis.sms_messages_history.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.sms_messages_history.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.sms_messages_history.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.sms_messages_history.name IS 'Name chosen by the customer.';
COMMENT ON COLUMN magnetis.sms_messages_history.content IS 'Text of the message.';
COMMENT ON COLUMN magnetis.sms_messages_history.created_at IS 'Time of creation.';
COMMENT ON COLUMN magnetis.sms_messages_history.valid_from IS 'Start of the read that first saw this version.';
COMMENT ON COLUMN magnetis.sms_messages_history.valid_to IS 'Start of the read that no longer saw it; NULL: present version.';
CREATE TABLE magnetis.visits (
    id text NOT NULL,
    account_id text,
    payload jsonb NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    day date NOT NULL,
    account_name text,
    visitor_id text,
    channel text,
    landing_url text,
    referrer text,
    pages jsonb,
    device text,
    duration_seconds bigint,
    call_id text,
    utm_source text,
    utm_medium text,
    utm_campaign text,
    utm_term text,
    utm_content text,
    gclid text,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone
);
COMMENT ON TABLE magnetis.visits IS 'Visitor journeys on the websites with a module.';
COMMENT ON COLUMN magnetis.visits.id IS 'Identifier given by Magnetis; opaque.';
COMMENT ON COLUMN magnetis.visits.account_id IS 'Account that the row belongs to.';
COMMENT ON COLUMN magnetis.visits.payload IS 'The row as received. May hold personal data.';
COMMENT ON COLUMN magnetis.visits.occurred_at IS 'Moment of the event.';
COMMENT ON COLUMN magnetis.visits.day IS 'Local day of the event in MAGNETIS_TIMEZONE: the partition.';
COMMENT ON COLUMN magnetis.visits.account_name IS 'Name of the account as received with the row.';
COMMENT ON COLUMN magnetis.visits.visitor_id IS 'Id of the visitor across journeys. Personal data: pseudonym.';
COMMENT ON COLUMN magnetis.visits.channel IS 'Marketing channel, a free label chosen by the customer, such as "Tout le SEO".';
COMMENT ON COLUMN magnetis.visits.landing_url IS 'First page of the journey. Personal data: pseudonym.';
COMMENT ON COLUMN magnetis.visits.referrer IS 'Page that the visitor came from.';
COMMENT ON COLUMN magnetis.visits.pages IS 'Pages seen, as received. Personal data: pseudonym.';
COMMENT ON COLUMN magnetis.visits.device IS 'Type of device.';
COMMENT ON COLUMN magnetis.visits.duration_seconds IS 'Length of the journey. Unit: seconds.';
COMMENT ON COLUMN magnetis.visits.call_id IS 'Call that the journey led to.';
COMMENT ON COLUMN magnetis.visits.utm_source IS 'Traffic source named by the campaign link.';
COMMENT ON COLUMN magnetis.visits.utm_medium IS 'Traffic medium named by the campaign link.';
COMMENT ON COLUMN magnetis.visits.utm_campaign IS 'Campaign named by the campaign link.';
COMMENT ON COLUMN magnetis.visits.utm_term IS 'Search term named by the campaign link.';
COMMENT ON COLUMN magnetis.visits.utm_content IS 'Advertisement variant named by the campaign link.';
COMMENT ON COLUMN magnetis.visits.gclid IS 'Google Ads click identifier. Personal data: pseudonym.';
COMMENT ON COLUMN magnetis.visits.first_seen_at IS 'Start of the first read that returned the row.';
COMMENT ON COLUMN magnetis.visits.last_seen_at IS 'Start of the last read that changed anything in the row.';
COMMENT ON COLUMN magnetis.visits.changed_at IS 'Start of the read in which the payload last differed.';
COMMENT ON COLUMN magnetis.visits.deleted_at IS 'Start of the complete read that no longer returned the row.';
CREATE VIEW magnetis.visits_current AS
 SELECT t.id,
    t.account_id,
    COALESCE(t.account_name, a.name) AS account_name,
    COALESCE(a.network_name, n.name) AS network_name,
    COALESCE(a.entity_name, n.entity_name, e.name) AS entity_name,
    t.occurred_at,
    (t.occurred_at AT TIME ZONE 'Europe/Paris'::text) AS occurred_at_local,
    t.day,
    t.visitor_id,
    t.channel,
    t.landing_url,
    t.referrer,
    t.pages,
    t.device,
    t.duration_seconds,
    t.call_id,
    t.utm_source,
    t.utm_medium,
    t.utm_campaign,
    t.utm_term,
    t.utm_content,
    t.gclid,
    t.first_seen_at,
    t.last_seen_at,
    t.changed_at
   FROM (((magnetis.visits t
     LEFT JOIN magnetis.accounts a ON ((a.id = COALESCE(t.account_id))))
     LEFT JOIN magnetis.networks n ON ((n.id = COALESCE(a.network_id))))
     LEFT JOIN magnetis.entities e ON ((e.id = COALESCE(a.entity_id, n.entity_id))))
  WHERE (t.deleted_at IS NULL);
COMMENT ON VIEW magnetis.visits_current IS 'Rows of magnetis.visits that the API still returns, with local times and the names of account, network and entity.';
CREATE TABLE magnetis_ops.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE magnetis_ops.api_calls (
    id bigint NOT NULL,
    key_fingerprint text NOT NULL,
    day date NOT NULL,
    charged_at timestamp with time zone NOT NULL,
    settled_at timestamp with time zone,
    collection text NOT NULL,
    route text NOT NULL,
    first_day date,
    last_day date,
    page integer NOT NULL,
    run_id text,
    lane text NOT NULL,
    status integer,
    error text,
    rows integer,
    bytes bigint,
    milliseconds integer,
    backfill_id text
);
COMMENT ON TABLE magnetis_ops.api_calls IS 'One row per request, retries included; written before the request is sent.';
COMMENT ON COLUMN magnetis_ops.api_calls.day IS 'Quota day that the request is charged to.';
COMMENT ON COLUMN magnetis_ops.api_calls.settled_at IS 'NULL: in flight, or the process died before the response.';
COMMENT ON COLUMN magnetis_ops.api_calls.first_day IS 'First day of the window; NULL if the request has none.';
COMMENT ON COLUMN magnetis_ops.api_calls.run_id IS 'Dagster run or command that sent the request.';
COMMENT ON COLUMN magnetis_ops.api_calls.status IS 'HTTP status; NULL if there was no response.';
COMMENT ON COLUMN magnetis_ops.api_calls.error IS 'Class of the error, NULL on success.';
COMMENT ON COLUMN magnetis_ops.api_calls.backfill_id IS 'Dagster backfill that the run belongs to; NULL for any other run.';
ALTER TABLE magnetis_ops.api_calls ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME magnetis_ops.api_calls_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE VIEW magnetis_ops.api_usage_30d AS
 SELECT day,
    key_fingerprint,
    collection,
    route,
    lane,
    count(*) AS calls,
    count(*) FILTER (WHERE ((status >= 200) AND (status <= 299))) AS succeeded,
    count(*) FILTER (WHERE (status = 429)) AS refused_over_quota,
    count(*) FILTER (WHERE ((settled_at IS NOT NULL) AND (COALESCE(status, 500) >= 400) AND (COALESCE(status, 500) <> 429))) AS failed,
    sum(rows) AS rows,
    sum(bytes) AS bytes,
    percentile_cont((0.5)::double precision) WITHIN GROUP (ORDER BY ((milliseconds)::double precision)) AS median_milliseconds
   FROM magnetis_ops.api_calls
  WHERE (charged_at > (magnetis_ops.now() - '31 days'::interval))
  GROUP BY day, key_fingerprint, collection, route, lane;
COMMENT ON VIEW magnetis_ops.api_usage_30d IS 'Calls by day, collection, route and lane, for BI.';
CREATE TABLE magnetis_ops.day_reads (
    window_id bigint NOT NULL,
    day date NOT NULL,
    age_days integer NOT NULL,
    first_read boolean NOT NULL,
    held integer NOT NULL,
    inserted integer NOT NULL,
    changed integer NOT NULL,
    deleted integer NOT NULL
);
COMMENT ON TABLE magnetis_ops.day_reads IS 'Rows that each complete read of a day changed. See the view late_changes.';
COMMENT ON COLUMN magnetis_ops.day_reads.age_days IS 'Days from the end of the day to the read: 0 is the first night.';
COMMENT ON COLUMN magnetis_ops.day_reads.first_read IS 'Whether this is the first complete read of the day.';
COMMENT ON COLUMN magnetis_ops.day_reads.held IS 'Rows that the table contained for the day after this read.';
CREATE TABLE magnetis_ops.days (
    collection text NOT NULL,
    day date NOT NULL,
    window_id bigint NOT NULL,
    read_at timestamp with time zone NOT NULL,
    announced integer NOT NULL,
    held integer NOT NULL,
    run_id text
);
COMMENT ON TABLE magnetis_ops.days IS 'Completed days: the newest complete read of each, committed with its rows.';
COMMENT ON COLUMN magnetis_ops.days.announced IS 'Distinct rows received for this day in a complete window.';
COMMENT ON COLUMN magnetis_ops.days.held IS 'Rows that the table contains for this day.';
CREATE TABLE magnetis_ops.forecasts (
    work text NOT NULL,
    collection text NOT NULL,
    first_day date NOT NULL,
    last_day date NOT NULL,
    days integer NOT NULL,
    rows bigint NOT NULL,
    calls integer NOT NULL,
    planned boolean NOT NULL,
    forecast_at timestamp with time zone NOT NULL
);
COMMENT ON TABLE magnetis_ops.forecasts IS 'Forecast API calls of backfills, for comparison with the calls they made.';
COMMENT ON COLUMN magnetis_ops.forecasts.work IS 'Dagster backfill or run that the forecast is for.';
COMMENT ON COLUMN magnetis_ops.forecasts.days IS 'Days to read between the two, both inclusive.';
COMMENT ON COLUMN magnetis_ops.forecasts.rows IS 'Rows announced for these days.';
COMMENT ON COLUMN magnetis_ops.forecasts.calls IS 'API calls forecast.';
COMMENT ON COLUMN magnetis_ops.forecasts.planned IS 'true: by `magnetis plan`, for all days; false: by a run, for its own days.';
CREATE VIEW magnetis_ops.late_changes AS
 SELECT w.collection,
    r.age_days,
    count(*) AS reads,
    sum(r.held) AS held_rows,
    sum(r.inserted) AS new_rows,
    sum(r.changed) AS changed_rows,
    sum(r.deleted) AS deleted_rows,
    count(*) FILTER (WHERE (((r.inserted + r.changed) + r.deleted) > 0)) AS reads_with_changes,
    round((((100)::numeric * sum(sum(((r.inserted + r.changed) + r.deleted))) OVER (PARTITION BY w.collection ORDER BY r.age_days)) / NULLIF(sum(sum(((r.inserted + r.changed) + r.deleted))) OVER (PARTITION BY w.collection), (0)::numeric)), 1) AS percent_up_to_this_age
   FROM (magnetis_ops.day_reads r
     JOIN magnetis_ops.windows w ON ((w.id = r.window_id)))
  WHERE ((NOT r.first_read) AND (w.read_at > (magnetis_ops.now() - '90 days'::interval)))
  GROUP BY w.collection, r.age_days;
COMMENT ON VIEW magnetis_ops.late_changes IS 'How many rows came, changed or went when days were read again in the last 90 days, by the age of the day in days: choose MAGNETIS_LOOKBACK_DAYS by it.';
CREATE UNLOGGED TABLE magnetis_ops.pages (
    work text NOT NULL,
    collection text NOT NULL,
    first_day date NOT NULL,
    last_day date NOT NULL,
    page integer NOT NULL,
    fetched_at timestamp with time zone NOT NULL,
    body bytea NOT NULL,
    request text NOT NULL
);
COMMENT ON TABLE magnetis_ops.pages IS 'Pages of uncommitted windows. An interrupted read resumes with them.';
COMMENT ON COLUMN magnetis_ops.pages.work IS 'Run whose retries may use the page.';
COMMENT ON COLUMN magnetis_ops.pages.fetched_at IS 'Start of the request.';
COMMENT ON COLUMN magnetis_ops.pages.body IS 'The body as received, compressed by Zstandard.';
COMMENT ON COLUMN magnetis_ops.pages.request IS 'Fingerprint of key, origin, request and declaration.';
CREATE TABLE magnetis_ops.quarantine (
    collection text NOT NULL,
    key text NOT NULL,
    reason text NOT NULL,
    payload jsonb NOT NULL,
    window_id bigint NOT NULL,
    first_seen_at timestamp with time zone NOT NULL,
    last_seen_at timestamp with time zone NOT NULL
);
COMMENT ON TABLE magnetis_ops.quarantine IS 'Rows that could not be placed, complete and with the reason.';
COMMENT ON COLUMN magnetis_ops.quarantine.key IS 'The row''s id, or a digest of the row if it has no id.';
CREATE TABLE magnetis_ops.quota_days (
    key_fingerprint text NOT NULL,
    day date NOT NULL,
    daily_quota integer NOT NULL,
    schedule integer DEFAULT 0 NOT NULL,
    settings integer DEFAULT 0 NOT NULL,
    manual integer DEFAULT 0 NOT NULL,
    backfill integer DEFAULT 0 NOT NULL,
    used_elsewhere integer DEFAULT 0 NOT NULL
);
COMMENT ON TABLE magnetis_ops.quota_days IS 'One row per key and quota day: the API calls charged, by lane.';
COMMENT ON COLUMN magnetis_ops.quota_days.day IS 'Calendar day in MAGNETIS_TIMEZONE.';
COMMENT ON COLUMN magnetis_ops.quota_days.daily_quota IS 'API calls allowed on that day, as last configured.';
COMMENT ON COLUMN magnetis_ops.quota_days.schedule IS 'API calls charged in lane schedule; never lowered.';
COMMENT ON COLUMN magnetis_ops.quota_days.settings IS 'API calls charged in lane settings; never lowered.';
COMMENT ON COLUMN magnetis_ops.quota_days.manual IS 'API calls charged in lane manual; never lowered.';
COMMENT ON COLUMN magnetis_ops.quota_days.backfill IS 'API calls charged in lane backfill; never lowered.';
COMMENT ON COLUMN magnetis_ops.quota_days.used_elsewhere IS 'API calls that other programs made, as reported by the API.';
CREATE TABLE magnetis_ops.quota_keys (
    key_fingerprint text NOT NULL,
    closed_until timestamp with time zone,
    trial_call bigint,
    trial_until timestamp with time zone,
    last_sent timestamp with time zone,
    lanes_last_sent jsonb DEFAULT '{}'::jsonb NOT NULL,
    closed_signal text
);
COMMENT ON TABLE magnetis_ops.quota_keys IS 'One row per key. Its row lock serializes the granting of requests.';
COMMENT ON COLUMN magnetis_ops.quota_keys.key_fingerprint IS 'Twelve hexadecimal digits of the key''s SHA-256; never the key.';
COMMENT ON COLUMN magnetis_ops.quota_keys.closed_until IS 'The API refuses requests until then. NULL after a successful trial.';
COMMENT ON COLUMN magnetis_ops.quota_keys.trial_call IS 'Request in api_calls that tests whether the API accepts requests again.';
COMMENT ON COLUMN magnetis_ops.quota_keys.trial_until IS 'The trial expires then, in case its process has died.';
COMMENT ON COLUMN magnetis_ops.quota_keys.last_sent IS 'Time at which the last granted request was, or will be, sent.';
COMMENT ON COLUMN magnetis_ops.quota_keys.lanes_last_sent IS 'The same time for each lane.';
COMMENT ON COLUMN magnetis_ops.quota_keys.closed_signal IS 'Status and rate-limit headers of the last response that closed the key.';
CREATE TABLE magnetis_ops.schema_state (
    name text NOT NULL,
    digest text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);
COMMENT ON TABLE magnetis_ops.schema_state IS 'Digest of the catalogue that the tables of the schema magnetis match.';
CREATE TABLE magnetis_ops.sources (
    collection text NOT NULL,
    key_fingerprint text NOT NULL,
    origin text NOT NULL,
    adopted_at timestamp with time zone NOT NULL
);
COMMENT ON TABLE magnetis_ops.sources IS 'Key and API origin that filled each table; rows of others are refused.';
COMMENT ON COLUMN magnetis_ops.sources.key_fingerprint IS 'Twelve hexadecimal digits of the key''s SHA-256; never the key.';
COMMENT ON COLUMN magnetis_ops.sources.origin IS 'Origin of the API that filled the table.';
CREATE TABLE magnetis_ops.strays (
    collection text NOT NULL,
    day date NOT NULL,
    held integer NOT NULL
);
COMMENT ON TABLE magnetis_ops.strays IS 'Days without a complete read, with rows that moved there from other days.';
COMMENT ON COLUMN magnetis_ops.strays.held IS 'Rows that the table contains for the day.';
CREATE TABLE magnetis_ops.window_limits (
    collection text NOT NULL,
    most_days integer,
    reason text NOT NULL,
    learned_at timestamp with time zone NOT NULL,
    most_rows integer
);
COMMENT ON TABLE magnetis_ops.window_limits IS 'Limits of a window, learned from refusals and contradictory responses.';
COMMENT ON COLUMN magnetis_ops.window_limits.most_days IS 'Longest window that the API answered completely after a longer one failed.';
COMMENT ON COLUMN magnetis_ops.window_limits.reason IS 'The API''s response to the longer window, or how the limit was detected.';
COMMENT ON COLUMN magnetis_ops.window_limits.learned_at IS 'The limit expires 30 days later, in case the API has changed.';
COMMENT ON COLUMN magnetis_ops.window_limits.most_rows IS 'Rows beyond which the API caps a window, total included; NULL: no known cap.';
ALTER TABLE magnetis_ops.windows ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME magnetis_ops.windows_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
INSERT INTO magnetis_ops.alembic_version VALUES ('0007');
INSERT INTO magnetis_ops.schema_state VALUES ('catalogue', '31c5abe74eabbffc171ab2065eb44899ccda7fad95db112aeb4cc8387a41fd54', '2026-11-29 00:35:43.647528+00');
SELECT pg_catalog.setval('magnetis_ops.api_calls_id_seq', 1, false);
SELECT pg_catalog.setval('magnetis_ops.windows_id_seq', 1, false);
ALTER TABLE ONLY magnetis.accounts_history
    ADD CONSTRAINT accounts_history_pkey PRIMARY KEY (id, valid_from);
ALTER TABLE ONLY magnetis.accounts
    ADD CONSTRAINT accounts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis.audio_files_history
    ADD CONSTRAINT audio_files_history_pkey PRIMARY KEY (id, valid_from);
ALTER TABLE ONLY magnetis.audio_files
    ADD CONSTRAINT audio_files_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis.calls
    ADD CONSTRAINT calls_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis.conversions
    ADD CONSTRAINT conversions_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis.email_alerts_history
    ADD CONSTRAINT email_alerts_history_pkey PRIMARY KEY (id, valid_from);
ALTER TABLE ONLY magnetis.email_alerts
    ADD CONSTRAINT email_alerts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis.email_trackers_history
    ADD CONSTRAINT email_trackers_history_pkey PRIMARY KEY (id, valid_from);
ALTER TABLE ONLY magnetis.email_trackers
    ADD CONSTRAINT email_trackers_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis.emails
    ADD CONSTRAINT emails_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis.entities_history
    ADD CONSTRAINT entities_history_pkey PRIMARY KEY (id, valid_from);
ALTER TABLE ONLY magnetis.entities
    ADD CONSTRAINT entities_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis.landing_pages_history
    ADD CONSTRAINT landing_pages_history_pkey PRIMARY KEY (id, valid_from);
ALTER TABLE ONLY magnetis.landing_pages
    ADD CONSTRAINT landing_pages_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis.leads
    ADD CONSTRAINT leads_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis.networks_history
    ADD CONSTRAINT networks_history_pkey PRIMARY KEY (id, valid_from);
ALTER TABLE ONLY magnetis.networks
    ADD CONSTRAINT networks_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis.numbers_history
    ADD CONSTRAINT numbers_history_pkey PRIMARY KEY (id, valid_from);
ALTER TABLE ONLY magnetis.numbers
    ADD CONSTRAINT numbers_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis.pools_history
    ADD CONSTRAINT pools_history_pkey PRIMARY KEY (id, valid_from);
ALTER TABLE ONLY magnetis.pools
    ADD CONSTRAINT pools_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis.recipients_history
    ADD CONSTRAINT recipients_history_pkey PRIMARY KEY (id, valid_from);
ALTER TABLE ONLY magnetis.recipients
    ADD CONSTRAINT recipients_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis.reports_history
    ADD CONSTRAINT reports_history_pkey PRIMARY KEY (id, valid_from);
ALTER TABLE ONLY magnetis.reports
    ADD CONSTRAINT reports_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis.sms_alerts_history
    ADD CONSTRAINT sms_alerts_history_pkey PRIMARY KEY (id, valid_from);
ALTER TABLE ONLY magnetis.sms_alerts
    ADD CONSTRAINT sms_alerts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis.sms_messages_history
    ADD CONSTRAINT sms_messages_history_pkey PRIMARY KEY (id, valid_from);
ALTER TABLE ONLY magnetis.sms_messages
    ADD CONSTRAINT sms_messages_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis.visits
    ADD CONSTRAINT visits_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis_ops.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY magnetis_ops.api_calls
    ADD CONSTRAINT api_calls_pkey PRIMARY KEY (id);
ALTER TABLE ONLY magnetis_ops.day_reads
    ADD CONSTRAINT day_reads_pkey PRIMARY KEY (window_id, day);
ALTER TABLE ONLY magnetis_ops.days
    ADD CONSTRAINT days_pkey PRIMARY KEY (collection, day);
ALTER TABLE ONLY magnetis_ops.forecasts
    ADD CONSTRAINT forecasts_pkey PRIMARY KEY (work, collection, first_day);
ALTER TABLE ONLY magnetis_ops.pages
    ADD CONSTRAINT pages_pkey PRIMARY KEY (work, collection, first_day, last_day, page);
ALTER TABLE ONLY magnetis_ops.quarantine
    ADD CONSTRAINT quarantine_pkey PRIMARY KEY (collection, key);
ALTER TABLE ONLY magnetis_ops.quota_days
    ADD CONSTRAINT quota_days_pkey PRIMARY KEY (key_fingerprint, day);
ALTER TABLE ONLY magnetis_ops.quota_keys
    ADD CONSTRAINT quota_keys_pkey PRIMARY KEY (key_fingerprint);
ALTER TABLE ONLY magnetis_ops.schema_state
    ADD CONSTRAINT schema_state_pkey PRIMARY KEY (name);
ALTER TABLE ONLY magnetis_ops.sources
    ADD CONSTRAINT sources_pkey PRIMARY KEY (collection);
ALTER TABLE ONLY magnetis_ops.strays
    ADD CONSTRAINT strays_pkey PRIMARY KEY (collection, day);
ALTER TABLE ONLY magnetis_ops.window_limits
    ADD CONSTRAINT window_limits_pkey PRIMARY KEY (collection);
ALTER TABLE ONLY magnetis_ops.windows
    ADD CONSTRAINT windows_pkey PRIMARY KEY (id);
CREATE INDEX ix_accounts_account ON magnetis.accounts USING btree (account_id);
CREATE INDEX ix_audio_files_account ON magnetis.audio_files USING btree (account_id);
CREATE INDEX ix_calls_account ON magnetis.calls USING btree (account_id);
CREATE INDEX ix_calls_caller_number_occurred_at ON magnetis.calls USING btree (caller_number, occurred_at);
CREATE INDEX ix_calls_day ON magnetis.calls USING btree (day);
CREATE INDEX ix_conversions_account ON magnetis.conversions USING btree (account_id);
CREATE INDEX ix_conversions_day ON magnetis.conversions USING btree (day);
CREATE INDEX ix_email_alerts_account ON magnetis.email_alerts USING btree (account_id);
CREATE INDEX ix_email_trackers_account ON magnetis.email_trackers USING btree (account_id);
CREATE INDEX ix_emails_account ON magnetis.emails USING btree (account_id);
CREATE INDEX ix_emails_day ON magnetis.emails USING btree (day);
CREATE INDEX ix_entities_account ON magnetis.entities USING btree (account_id);
CREATE INDEX ix_landing_pages_account ON magnetis.landing_pages USING btree (account_id);
CREATE INDEX ix_leads_account ON magnetis.leads USING btree (account_id);
CREATE INDEX ix_leads_day ON magnetis.leads USING btree (day);
CREATE INDEX ix_networks_account ON magnetis.networks USING btree (account_id);
CREATE INDEX ix_numbers_account ON magnetis.numbers USING btree (account_id);
CREATE INDEX ix_pools_account ON magnetis.pools USING btree (account_id);
CREATE INDEX ix_recipients_account ON magnetis.recipients USING btree (account_id);
CREATE INDEX ix_reports_account ON magnetis.reports USING btree (account_id);
CREATE INDEX ix_sms_alerts_account ON magnetis.sms_alerts USING btree (account_id);
CREATE INDEX ix_sms_messages_account ON magnetis.sms_messages USING btree (account_id);
CREATE INDEX ix_visits_account ON magnetis.visits USING btree (account_id);
CREATE INDEX ix_visits_day ON magnetis.visits USING btree (day);
CREATE UNIQUE INDEX uq_accounts_history_open ON magnetis.accounts_history USING btree (id) WHERE (valid_to IS NULL);
CREATE UNIQUE INDEX uq_audio_files_history_open ON magnetis.audio_files_history USING btree (id) WHERE (valid_to IS NULL);
CREATE UNIQUE INDEX uq_email_alerts_history_open ON magnetis.email_alerts_history USING btree (id) WHERE (valid_to IS NULL);
CREATE UNIQUE INDEX uq_email_trackers_history_open ON magnetis.email_trackers_history USING btree (id) WHERE (valid_to IS NULL);
CREATE UNIQUE INDEX uq_entities_history_open ON magnetis.entities_history USING btree (id) WHERE (valid_to IS NULL);
CREATE UNIQUE INDEX uq_landing_pages_history_open ON magnetis.landing_pages_history USING btree (id) WHERE (valid_to IS NULL);
CREATE UNIQUE INDEX uq_networks_history_open ON magnetis.networks_history USING btree (id) WHERE (valid_to IS NULL);
CREATE UNIQUE INDEX uq_numbers_history_open ON magnetis.numbers_history USING btree (id) WHERE (valid_to IS NULL);
CREATE UNIQUE INDEX uq_pools_history_open ON magnetis.pools_history USING btree (id) WHERE (valid_to IS NULL);
CREATE UNIQUE INDEX uq_recipients_history_open ON magnetis.recipients_history USING btree (id) WHERE (valid_to IS NULL);
CREATE UNIQUE INDEX uq_reports_history_open ON magnetis.reports_history USING btree (id) WHERE (valid_to IS NULL);
CREATE UNIQUE INDEX uq_sms_alerts_history_open ON magnetis.sms_alerts_history USING btree (id) WHERE (valid_to IS NULL);
CREATE UNIQUE INDEX uq_sms_messages_history_open ON magnetis.sms_messages_history USING btree (id) WHERE (valid_to IS NULL);
CREATE INDEX ix_api_calls_backfill ON magnetis_ops.api_calls USING btree (backfill_id) WHERE (backfill_id IS NOT NULL);
CREATE INDEX ix_api_calls_key_charged_at ON magnetis_ops.api_calls USING btree (key_fingerprint, charged_at);
CREATE INDEX ix_api_calls_late ON magnetis_ops.api_calls USING btree (key_fingerprint, settled_at) WHERE ((settled_at - charged_at) > '00:05:00'::interval);
CREATE INDEX ix_api_calls_run ON magnetis_ops.api_calls USING btree (run_id);
CREATE INDEX ix_days_window ON magnetis_ops.days USING btree (window_id);
CREATE INDEX ix_quarantine_window ON magnetis_ops.quarantine USING btree (window_id);
CREATE INDEX ix_windows_collection_days ON magnetis_ops.windows USING btree (collection, first_day, last_day);
ALTER TABLE ONLY magnetis_ops.day_reads
    ADD CONSTRAINT day_reads_window_id_fkey FOREIGN KEY (window_id) REFERENCES magnetis_ops.windows(id);
ALTER TABLE ONLY magnetis_ops.days
    ADD CONSTRAINT days_window_id_fkey FOREIGN KEY (window_id) REFERENCES magnetis_ops.windows(id);
ALTER TABLE ONLY magnetis_ops.quarantine
    ADD CONSTRAINT quarantine_window_id_fkey FOREIGN KEY (window_id) REFERENCES magnetis_ops.windows(id);
