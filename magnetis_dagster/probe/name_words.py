"""Words in the names of members that say what the values are: English and French, no accents."""

from typing import Final

RECORDING: Final = frozenset(
    {"recording", "record", "enregistrement", "audio", "voicemail", "messagerie", "repondeur"}
    | {"transcript", "mp3", "wav"}
)
"""Parts of a name, or of the path of a link, of a recording."""

VISITOR_IDS: Final = frozenset(
    {"ip", "ipaddress", "adresseip", "remoteaddr", "clientip", "useragent", "ua", "macaddress"}
    | {"cookie", "cookieid", "cookies", "fingerprint", "deviceid", "idfa", "gaid", "idvisiteur"}
    | {"clientid", "gaclientid", "ga", "fbp", "fbc", "clickid", "idsession"}
    | {"gclid", "gbraid", "wbraid", "dclid", "fbclid", "msclkid", "ttclid", "twclid", "yclid"}
    | {"lifatid", "epik", "sclid", "rdtcid"}
    | {"visitorid", "visiteurid", "sessionid", "visitid"}
)
"""Names, without separators, of ids of a visitor, device, session or click."""

VISITORS: Final = frozenset({"visitor", "visiteur", "session", "cookie", "visit"})
"""Words that mean a visitor, alone or with a word such as id."""

PERSON_NAMES: Final = frozenset(
    {"firstname", "lastname", "surname", "fullname", "givenname", "familyname", "middlename"}
    | {"prenom", "prenoms", "nomprenom", "prenomnom", "nomcomplet", "nomdefamille"}
    | {"civilite", "civility", "salutation"}
)
"""Names, without separators, of names of persons."""

CONTACT_ALONE: Final = frozenset(
    {"nom", "address", "adresse", "streetaddress", "adressepostale", "postaladdress"}
    | {"zip", "zipcode", "postcode", "postalcode", "codepostal"}
)
"""Names, without separators, of members about a contact, unless another object contains them."""

CONTACT_OF_PERSON: Final = frozenset(
    {"name", "nom", "firstname", "lastname", "prenom", "address", "adresse", "surname"}
)
"""The same if another word says that a person is meant."""

PERSON: Final = frozenset(
    {"caller", "appelant", "contact", "customer", "client", "lead", "prospect", "sender"}
    | {"expediteur", "visitor", "visiteur", "person", "personne", "patient", "buyer", "acheteur"}
)
"""Words that mean a person outside the company."""

CALLER: Final = frozenset({"caller", "calling", "appelant"})
"""Words that mean the person who calls."""

STAFF: Final = frozenset(
    {"recipient", "destinataire", "agent", "user", "utilisateur", "operator", "operateur", "staff"}
    | {"employee", "employe", "conseiller", "vendeur", "commercial", "advisor", "owner", "manager"}
)
"""Words that mean a person inside the company."""

NOT_THE_CONTACT: Final = STAFF | frozenset(
    {"forward", "forwarded", "transfer", "transfert", "renvoi", "destination", "to"}
    | {"called", "callee", "appele", "dialled", "dialed", "tracked", "tracking", "tracker"}
    | {"account", "compte", "company", "societe", "entreprise", "agency", "agence", "site"}
    | {"campaign", "campagne", "portal", "portail", "network", "reseau", "entity", "entite"}
)
"""Words that mean somebody or something other than the caller or contact."""

FREE_TEXT: Final = frozenset(
    {"note", "notes", "comment", "comments", "commentaire", "commentaires", "remark", "remarks"}
    | {"remarque", "remarques", "message", "messages", "transcript", "transcription", "body"}
    | {"corps", "subject", "objet", "sujet", "description", "text", "texte", "content", "contenu"}
    | {"summary", "resume", "memo", "observation", "observations"}
)
"""Last words of names of texts that people write or say."""

CATEGORY: Final = frozenset(
    {"status", "statut", "state", "etat", "type", "kind", "category", "categorie", "direction"}
    | {"sens", "source", "medium", "channel", "canal", "device", "appareil", "language", "langue"}
    | {"lang", "locale", "currency", "devise", "country", "pays", "level", "niveau", "mode"}
    | {"outcome", "result", "resultat", "priority", "priorite", "format", "browser", "navigateur"}
    | {"os", "platform", "plateforme", "portal", "portail", "origin", "origine", "method"}
)
"""Last words of names of enumerations. First names of employees are few and short too."""

SENSITIVE_WORDS: Final = frozenset(
    {"id", "ids", "uid", "key", "ref", "reference", "no", "nr", "num", "ip", "tel", "ext", "pin"}
    | {"age", "dob", "lat", "lng", "lon", "geo", "gps", "cp", "zip", "by", "par", "poste", "line"}
    | {"name", "nom", "sex", "sexe", "lead", "year", "annee", "rue", "city", "ville", "digits"}
)
"""Words of names whose values may identify a person however short they are."""

SENSITIVE_STEMS: Final = frozenset(
    {"phone", "mobile", "portable", "fax", "number", "numero", "msisdn", "chiffres", "suffix"}
    | {"code", "password", "secret", "token", "extension", "card", "carte", "siret", "iban"}
    | {"birth", "naissance", "born", "gender", "genre", "latitude", "longitude", "location"}
    | {"position", "coord", "postal", "postcode", "insee", "commune", "street", "address"}
    | {"adresse", "mail", "firstname", "lastname", "prenom", "civil", "salar", "user"}
    | {word for word in PERSON | STAFF if len(word) > 4}
)
"""The same as parts of a name without separators."""

BIRTH: Final = frozenset({"birth", "born", "naissance", "dob", "anniversaire"})
"""Parts of names of dates of birth."""
