"""The sample product: its songs, plans and pages, and its users' names, places and devices."""

from typing import Any

GENRES = (
    "afrobeat",
    "ambient",
    "bossa nova",
    "classical",
    "electronic",
    "folk",
    "hip-hop",
    "indie",
    "jazz",
    "k-pop",
    "metal",
    "rock",
)

# Invented artists in many scripts, so that a wrong text encoding is noticed.
ARTISTS = (
    ("The Paper Lanterns", "US"),
    ("Marée Basse", "FR"),
    ("Los Ñandúes", "AR"),
    ("Ólafía & the Glaciers", "IS"),
    ("Käthe Blaulicht", "DE"),
    ("Świt Orkiestra", "PL"),
    ("Ксения Лунная", "KZ"),
    ("青い自転車", "JP"),
    ("달빛 상점", "KR"),
    ("夜航船", "TW"),
    ("فرقة النخيل", "EG"),
    ("Θάλασσα Εννέα", "GR"),
    ("सुबह की रेल", "IN"),
    ("Coração de Vidro", "BR"),
    ("Adébáyọ̀ Sound System", "NG"),
    ("Trần & Sons", "VN"),
    ("DJ Nimbus ☁️", "NL"),
    ('Jo "Slow" Hand', "GB"),
    ("Back\\Slash", "CA"),
    ("Ördög Trió", "HU"),
)

_FIRST_WORDS = (
    "Paper",
    "Midnight",
    "Velvet",
    "Northern",
    "Électrique",
    "Slow",
    "Copper",
    "Älskade",
)
_SECOND_WORDS = ("Harbour", "Mañana", "Trains", "Orchard", "Señales", "Snow", "Radio", "Garden 🌙")

# City, region, country code, time zone.
PLACES = (
    ("New York", "New York", "US", "America/New_York"),
    ("Austin", "Texas", "US", "America/Chicago"),
    ("San Francisco", "California", "US", "America/Los_Angeles"),
    ("Montréal", "Quebec", "CA", "America/Toronto"),
    ("São Paulo", "São Paulo", "BR", "America/Sao_Paulo"),
    ("London", "England", "GB", "Europe/London"),
    ("Manchester", "England", "GB", "Europe/London"),
    ("Paris", "Île-de-France", "FR", "Europe/Paris"),
    ("Berlin", "Berlin", "DE", "Europe/Berlin"),
    ("Zürich", "Zurich", "CH", "Europe/Zurich"),
    ("Kraków", "Lesser Poland", "PL", "Europe/Warsaw"),
    ("Lagos", "Lagos", "NG", "Africa/Lagos"),
    ("Bengaluru", "Karnataka", "IN", "Asia/Kolkata"),
    ("Tokyo", "Tokyo", "JP", "Asia/Tokyo"),
    ("Sydney", "New South Wales", "AU", "Australia/Sydney"),
)

# The properties that Mixpanel's libraries set for a device.
DEVICES: tuple[dict[str, Any], ...] = (
    {
        "$browser": "Chrome",
        "$browser_version": 131,
        "$os": "Windows",
        "$screen_width": 1920,
        "$screen_height": 1080,
        "mp_lib": "web",
        "$lib_version": "2.58.0",
    },
    {
        "$browser": "Safari",
        "$browser_version": 17.6,
        "$os": "Mac OS X",
        "$screen_width": 1512,
        "$screen_height": 982,
        "mp_lib": "web",
        "$lib_version": "2.58.0",
    },
    {
        "$browser": "Firefox",
        "$browser_version": 133,
        "$os": "Linux",
        "$screen_width": 2560,
        "$screen_height": 1440,
        "mp_lib": "web",
        "$lib_version": "2.58.0",
    },
    {
        "$os": "iOS",
        "$os_version": "17.5.1",
        "$model": "iPhone15,2",
        "$manufacturer": "Apple",
        "$carrier": None,
        "$wifi": True,
        "$app_version_string": "4.12.0",
        "mp_lib": "swift",
        "$lib_version": "4.3.0",
    },
    {
        "$os": "Android",
        "$os_version": "14",
        "$model": "Pixel 8",
        "$manufacturer": "Google",
        "$carrier": "Vodafone",
        "$wifi": False,
        "$app_version_string": "4.11.2",
        "mp_lib": "android",
        "$lib_version": "7.5.2",
    },
)

FIRST_NAMES = (
    "Alice",
    "Amara",
    "Björn",
    "Chloé",
    "Diego",
    "Emeka",
    "Hana",
    "Ines",
    "José",
    "Łukasz",
    "Mei",
    "Noah",
    "Priya",
    "Søren",
    "Zoë",
    "Юлия",
)

LAST_NAMES = (
    "Johnson",
    "Okafor",
    "Lindström",
    "Dubois",
    "García",
    "Nguyễn",
    "Kowalska",
    "O'Neill",
    "Müller",
    "Tanaka",
    "Sharma",
    "da Silva",
    "Иванова",
)

# Monthly prices.
PLANS = {"student": 4.99, "premium": 9.99, "family": 14.99}
CURRENCIES = {"US": "USD", "CA": "CAD", "BR": "BRL", "GB": "GBP", "IN": "INR", "JP": "JPY"}
PAGES = ("/home", "/discover", "/library", "/charts", "/artist", "/settings")
SEARCHES = ("rain sounds", "90er Hits", "música para estudiar", "lo-fi", "ライブ", "workout")


def _make_songs() -> tuple[dict[str, Any], ...]:
    """Return the properties of each song in `Song Played` events, the most played song first."""
    songs = []
    for number in range(320):
        name, country = ARTISTS[number * 7 % len(ARTISTS)]
        first = _FIRST_WORDS[number % len(_FIRST_WORDS)]
        second = _SECOND_WORDS[number * 3 // len(_FIRST_WORDS) % len(_SECOND_WORDS)]
        genre = number * 5 % len(GENRES)
        songs.append(
            {
                "song_id": f"song_{number + 1}",
                "song": f"{first} {second}",
                "artist": {"name": name, "country": country},
                "genres": [GENRES[genre], GENRES[(genre + 1 + number % 3) % len(GENRES)]],
                "duration": 120 + number * 37 % 240,
            }
        )
    return tuple(songs)


SONGS = _make_songs()
