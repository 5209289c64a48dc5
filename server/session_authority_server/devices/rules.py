"""The rules that `parser` applies to user agents, as data.

Keys are in lower case. If several rows of a table match, the first row wins.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Programs, and the products that name them. An app comes before the browser or engine that shows its pages.
PROGRAMS = {
    # Apps that show web pages.
    "WeChat": "micromessenger windowswechat macwechat wechat weixin",
    "Threads": "barcelona",
    "Instagram": "instagram",
    "Facebook Messenger": "messengerforios messengerlite messengerliteforios orca messenger mlite",
    "Facebook": "fban fbav fb_iab fb4a fbios facebook",
    "KakaoTalk": "kakaotalk",
    "KakaoStory": "kakaostory",
    "Naver": "naver",
    "Daum": "daumapps",
    "LinkedIn": "linkedinapp",
    "Snapchat": "snapchat",
    "Pinterest": "pinterest",
    "Twitter": "twitter twitterandroid",
    "WhatsApp": "whatsapp whatsapp-app whatsappelectron",
    "Telegram": "telegram",
    "Zalo": "zalo",
    "Viber": "viber",
    "Weibo": "weibo",
    "TikTok": "musical_ly trill tiktok bytedancewebview",
    "Douyin": "aweme",
    "Toutiao": "newsarticle",
    "Alipay": "alipayclient",
    "DingTalk": "dingtalk",
    "WeCom": "wxwork",
    "Feishu": "feishu",
    "Lark": "lark",
    "Xiaohongshu": "xiaohongshu",
    "Honor Browser": "bdhonorbrowser honorbrowser",
    "Baidu": "baiduboxapp",
    "Bing": "bingsapphire bingweb",
    "Google app": "gsa googleapp",
    "Ecosia": "ecosia",
    "Discord": "discord",
    "Slack": "slack slack_ssb",
    "Microsoft Teams": "teams teamsmobile",
    "Skype": "skype",
    "Visual Studio Code": "code",
    "Evernote": "evernote",
    "QuickBooks": "quickbooks",
    "WeGame": "wegame",
    "Steam": "steam",
    "Presearch": "presearch",
    "Yelp": "yelpapp",
    "OK": "okapp",
    "MailMaster": "mailmaster_android_mobile",
    "BrightSign": "brightsign",
    "Roku": "roku",
    "Sonos": "sonos",
    # Browsers whose user agent also contains another browser's name, or contains their own name shortened or written
    # as one word.
    "Opera GX": "opx oprgx",
    "Opera Touch": "opt",
    "Avast Secure Browser": "avast avastsecurebrowser asw",
    "AVG Secure Browser": "avg",
    "CCleaner Browser": "ccleaner",
    "Norton Private Browser": "norton",
    "DuckDuckGo": "ddg duckduckgo",
    "PICO Browser": "picobrowser",
    "Meta Quest Browser": "oculusbrowser",
    "Wolvic": "wolvic",
    "Startpage": "startpage",
    "Qwant": "qwantmobile qwantbrowser",
    "Firefox Focus": "focus",
    "Firefox Klar": "klar",
    "GNOME Web": "epiphany",
    "Falkon": "falkon",
    "Quark": "quark quarkpc",
    "ChatGPT Atlas": "atlas",
    "Comet": "comet",
    "Huawei Browser": "huaweibrowser hbpc",
    "Harmony 360 Browser": "harmony360browser",
    "Yandex Browser": "yabrowser yasearchbrowser yandexsearch yasearchapp",
    "Mi Browser": "miuibrowser",
    "vivo Browser": "vivobrowser",
    "HeyTap Browser": "heytapbrowser",
    "Meizu Browser": "mzbrowser",
    "Sogou Browser": "sogoumobilebrowser metasr",
    "UC Browser": "ucbrowser ubrowser ucweb",
    "Phoenix Browser": "phx",
    "Tizen Browser": "tizenbrowser",
    "Samsung Internet": "samsungbrowser",
    "Samsung Email": "samsungemail",
    "Maxthon": "maxthon mxbrowser mxbrowser-inhouse mxios",
    "Vivaldi": "vivaios",
    "AdBlock Browser": "abb",
    "360 Browser": "qihu 360ee 360se",
    "T-Browser": "tbrowser",
    "Sogou": "sogousearch",
    "Coc Coc": "coc_coc_browser",
    "Seznam": "sznprohlizec",
    "WebPositive": "webpositive",
    "Tesla": "teslabrowser tesla",
    "QQ": "qq",
    "QQ Browser": "mqqbrowser qqbrowser",
    "NetFront Life": "netfrontlifebrowser",
    "Ovi Browser": "s40ovibrowser",
    "Nokia Browser": "nokiabrowser",
    "Opera": "opr",
    "Edge": "edge edgw",
    # Libraries and bots that ua-parser knows by another name, or not at all.
    "PowerShell": "windowspowershell",
    "FFmpeg": "lavf",
    "SkypeUriPreview": "skypeuripreview",
    "HTTP-Tiny": "http-tiny",
    "FacebookBot": "facebookexternalhit",
}

# Programs that are named only in the comment about the system. A row is a text in the comment, and the name.
PROGRAMS_IN_COMMENTS = (
    ("; AVGfil", "AVG Secure Browser"),
    ("Valve Steam", "Steam"),
    ("WinHttp.", "WinHTTP"),
)

# Products that are not the name of a program.
NOT_PROGRAMS = (
    # Engines, and programs that browsers claim to be compatible with.
    _words("""
        mozilla applewebkit applelwebkit webkit androidwebkit khtml gecko safari mobilesafari chrome chr0me chromium
        crmo crosswalk version mobile trident presto goanna arkweb qtwebengine qt electron webview wkwebview wkbrowser
        browser web app opera firefox fennec crios fxios edgios edg edga edge like midp cldc profile configuration
        """)
    # Systems and devices.
    | _words("""
        linux gnu linux-gnu android ios ipados iphone ipad macos mac macintosh darwin windows win nt x11 cros ubuntu
        debian fedora mint centos suse mandriva gentoo red arch raspbian kaios os tv vr smarttv pc phone tablet model
        build release beta pro lite config id deviceid s60 series60 cyanogenmod lenovo samsung wap wap-browser mre maui
        """)
    # Libraries, shells and bridges that apps are built on.
    | _words("""
        glibc cpython pypy python java openssl zlib dalvik cfnetwork network upnp cronet okhttp_base cordova
        cordova-amazon-fireos amazonwebappplatform reactnative expo flutter capacitor gonative median turbolinks hotwire
        native turbo nebulasdk jssdk mmwebsdk xweb tbs tbs4 qbcore qblink u2 u3 u4 uws ucbs untrusted jbed clr net
        osmeta hmscore gmscore webtv winhttp.winhttprequest embeddedbrowser freewheeladmanager mobileappclient
        """)
    # Settings and parts of an app.
    | _words("""
        sa bropp yowser yaapp_android yaapp_ios yasearchwebview yandexsearchwebview yptp webomni nstnwv mmwebid abi
        nettype language languagetype covc webp weixin channel region bytelocale bytefulllocale isdarkmode appname
        appver appverc appversion app_version appid falcontag spark pia fbsv fbss fbop fbbv fbrv fbmd fbdv fbsn fbid
        fblc fbcr fbpn fbdm fbnv iabmv t5 t7 t10 sp-engine nabar matrixstyle light bdos bdapp bd_dvt bdh_de bdh_dvt
        bdh_ds tieba flyflow mmp rv a b s n svn air odd statusht titleht islp islb isdm statusbarheight
        statusbarheightdp pixel qqtheme simpleuiswitch qbwebviewtype wktype currentfontscale studymode currentmode
        slbchan slbvpv slcc slcc2 v1_and_sq v1_iph_sq acheetahi altair awp mms lg-android-mms lg-android-mms-v smm-mms
        gnbr nac vpncapable ttid aliapp bnc opm yoda hawk lativu mobi mobil safa
        """)
    # Televisions.
    | _words("""
        hbbtv smarttva omi fvc ce-html vidaa odin whaletv signon tivoos nettv sraf nf nx maple dlnadoc viera crkey large
        screen webappmanager
        """)
)

# Products at the start of a user agent that are not the name of the program.
NOT_APPS = _words("""
    mozilla opera dalvik cfnetwork darwin dv j2me java-me url linux version iphone ipad ipod android ios build
    wap-browser mobile
    """) | {"linux upnp"}

# Products that show the pages of an app. Beside them, "Chrome" means only the engine.
WEB_VIEWS = frozenset({"arkweb"})

# User agents of feature phones begin with the maker and model instead of the program.
FEATURE_PHONES = (
    r"\bMIDP\b|Profile/|\bBREW\b|\bWAP\b|UP\.Browser|\bMRE/|\bMMP/"
    r"|\A(?:DoCoMo|KDDI|J-PHONE|Vodafone|SIE|MOT|SEC|LG|QC|[Nn]okia|NOKIA|S[Aa][Mm][Ss][Uu][Nn][Gg]|SonyEricsson"
    r"|A[Ll][Cc][Aa][Tt][Ee][Ll]|H[Uu][Aa][Ww][Ee][Ii]|ZTE|HTC|Lenovo|PANTECH|Amoi|BlackBerry)[-_/\d]"
)

# Libraries through which apps send requests. If a user agent names one of them first and then an app, the program is
# the app.
HTTP_LIBRARIES = _words("""
    okhttp okhttp3 alamofire afnetworking cfnetwork dalvik dart axios apache-httpclient volley retrofit ktor-client
    exoplayerlib node-fetch undici got go-http-client python python-requests python-urllib urllib3 aiohttp guzzlehttp
    nsurlsession urlsession react-native reactornetty
    """)

# ua-parser's names of programs, and the display names. An empty name means that only the engine is known.
FAMILIES = {
    "Amazon Silk": "Silk",
    "Android": "",
    "Apple Mail": "In-app browser",
    "BlackBerry WebKit": "BlackBerry Browser",
    "BlackBerry": "BlackBerry Browser",
    "CFNetwork": "",
    "Chrome Mobile WebView": "In-app browser",
    "Chromium Browser": "Chromium",
    "Crosswalk": "In-app browser",
    "DuckDuckGo Mobile": "DuckDuckGo",
    "Electron": "Electron app",
    "Explorer for ArcGIS": "ArcGIS Explorer",
    "Google": "Google app",
    "HbbTV": "",
    "HeadlessChrome": "Headless Chrome",
    "IE": "Internet Explorer",
    "IE Mobile": "Internet Explorer",
    "Mobile Safari": "Safari",
    "MobileSafari": "Safari",
    "Mobile Safari UI/WKWebView": "In-app browser",
    "MullvadBrowser": "Mullvad Browser",
    "NetFront NX": "",
    "Nokia": "",
    "Norton": "Norton Private Browser",
    "Oculus Browser": "Meta Quest Browser",
    "Odin": "",
    "Other": "",
    "Python Requests": "python-requests",
    "Python aiohttp": "aiohttp",
    "Qt Web Engine": "In-app browser",
    "Slack Desktop Client": "Slack",
    "Steam GameOverlay": "Steam",
    "WMPlayer": "",
    "WeChat Browser": "WeChat",
    "WebKit Nightly": "",
    "WebView": "In-app browser",
}
# Names that other browsers and apps also put into their user agents. A product that no rule lists is preferred.
GENERIC_FAMILIES = frozenset(
    {"", "Chrome", "Chromium", "Electron app", "Firefox", "In-app browser", "Safari"}
)

# ua-parser's names of systems, and the display names. ua-parser also takes brands of televisions for systems, so a name
# that is not listed is dropped.
SYSTEMS = {
    "ATV OS X": "tvOS",
    "BlackBerry Tablet OS": "BlackBerry OS",
    "Chrome OS": "ChromeOS",
    "Chromecast Android": "Chromecast",
    "Chromecast Fuchsia": "Chromecast",
    "Chromecast Linux": "Chromecast",
    "Chromecast SmartSpeaker": "Chromecast",
    "Mac OS": "macOS",
    "Mac OS X": "macOS",
    "Symbian^3": "Symbian OS",
    "Symbian^3 Anna": "Symbian OS",
    "Symbian^3 Belle": "Symbian OS",
    "WatchOS": "watchOS",
    "Web0S": "webOS",
} | {
    name: name
    for name in (
        "Android", "Arch Linux", "BREW", "Bada", "BlackBerry OS", "CentOS", "Debian", "Fedora", "Firefox OS", "FreeBSD",
        "Fuchsia", "Gentoo", "HarmonyOS", "KaiOS", "Kindle", "Kubuntu", "Linux", "Linux Mint", "Maemo", "Mandriva",
        "MeeGo", "NetBSD", "Nokia Series 40", "OpenBSD", "Red Hat", "Roku", "SUSE", "Sailfish", "SerenityOS",
        "Slackware", "Solaris", "Symbian OS", "Tizen", "Ubuntu", "Windows", "Windows CE", "Windows Mobile",
        "Windows Phone", "Xbox", "iOS", "openSUSE", "tvOS", "webOS", "watchOS", "visionOS",
    )
}  # fmt: skip

# Systems that ua-parser mistakes for a related system. A row is a text that the user agent contains, a pattern if the
# text is not enough, and the name. Without a name, the pattern's first group is the name, and its second group is the
# version.
SYSTEM_SIGNS = (
    ("PlayStation", r"(PlayStation (?:Vita|Portable|[3-9]))()", ""),
    ("PLAYSTATION 3", "", "PlayStation 3"),
    ("(PS3)", "", "PlayStation 3"),
    ("; Xbox", "", "Xbox"),
    ("(Nintendo", r"(Nintendo (?:Switch(?: 2)?|WiiU|Wii|3DS|DSi?))()", ""),
    ("iPadOS", r"(iPadOS)\b(?:[ /]([\d._]+))?", ""),
    ("tvOS", r"(tvOS)(?:[ /]?([\d.]+))?", ""),
    ("watchOS", r"(watchOS)\b(?:[ /]([\d.]+))?", ""),
    ("visionOS", r"(visionOS)\b(?:[ /]([\d.]+))?", ""),
    ("Watch OS", "", "watchOS"),
    ("HarmonyOS", r"(HarmonyOS)\b(?:[ /]([\d.]+))?", ""),
    ("OpenHarmony", r"(OpenHarmony)\b(?:[ /]([\d.]+))?", ""),
    ("ViziOS", "", "ViziOS"),
    ("VIZIO SmartCast", "", "SmartCast"),
    ("PICO ", r"\bPICO \d", "PICO OS"),
    ("VIDAA", "", "VIDAA"),
    ("Web0S", "", "webOS"),
    ("NetCast", "", "NetCast"),
    ("Roku/", r"(Roku)/DVP-(\d+\.\d+)", ""),
    ("Coolita OS", "", "Coolita OS"),
    ("Windows CE", "", "Windows CE"),
    ("WindowsCE", "", "Windows CE"),
    ("Windows IoT", "", "Windows"),
    ("Haiku", r"(?:Intel |\(|; )Haiku\b", "Haiku"),
    ("Darwin", r"\((?:x86_64|i386|Power)|Darwin/?[ \d.]*;? ?(?:i386|x86_64|arm64)", "macOS"),
    # The first digits of WebKit's number stand for the system: 20621 on macOS, 8621 on iOS.
    ("Darwin", r"\A(?:Safari|com\.apple\.)[\w.]*/[12]\d{4}\.", "macOS"),
)
# Words for a system, used if ua-parser finds none.
SYSTEM_WORDS = (
    (r"\b(?:iPad|iPhone|iPod|iOS)|-iOS\b", "iOS"),
    (r"Andr[o0]id", "Android"),
    (r"\b(?:macOS|Mac ?OS)\b", "macOS"),
    (r"(?i:\bwindows\b|\bwin(?:32|64)\b)", "Windows"),
    (r"\bSymbian", "Symbian OS"),
    (r"(?i:\blinux|\bManjaro|buntu)\b", "Linux"),
)

# The first matching row gives the type. A row matches if the user agent contains one of the texts, and if the pattern
# matches or is empty. Special types come first, because televisions and tablets also claim to be other devices.
TYPE_SIGNS = (
    # These rows come before consoles and televisions: a phone's app may be named after the device that it controls.
    (("iPad", "ablet;"), r"\biPad|\b[Tt]ablet;", "tablet"),
    (("iPhone", "iPod"), r"\A(?!.*Watch)", "phone"),
    # Consoles, watches, headsets, cars, speakers, televisions.
    (
        (
            "(PlayStation", "(PLAYSTATION", "(PS3)", "; Xbox", "(Nintendo", "OUYA", "Steam Deck", "Retroid",
            "Apple Watch", "watchOS", "OculusBrowser", "PicoBrowser", "VR Safari", "Mobile VR", "PortalGo",
            "Tesla/20", "TeslaBrowser", "; Polestar", "yandexstation",
            "SMART-TV", "SmartTV", "Smart TV", "Smart-TV", "smart-tv", "Smart_TV", "SMARTTV", "LINUX; Tizen", "HbbTV",
            "OMI/", "VIZIO SmartCast", "ViziOS", "BRAVIA", "Roku/DVP", "VIDAA", "Chromecast", "CrKey", "Web0S", "NetCast", "Android TV",
            "AndroidTV", "Google TV", "GoogleTV", "SHIELD Android", "AppleTV", "Apple TV", "MIBOX", "MI BOX", "MiTV", "MITV",
            "TicWatch", "Ticwatch", "Freebox",
            "BrightSign", "Coolita", "Family Hub", "(DTV;", "TSBNetTV",
        ),
        "", "appliance",
    ),
    (
        ("Watch", "SM-R", "Quest", "Sonos/", "EO", "AFT", "Garmin"),
        r"\bWatch\b|\bSM-R\d{3}|\bQuest (?:[23]\b|Pro)|Sonos/\S+ \(ZP|\bA[A-Z]?EO[A-Z]{2}\b|\bAFT[A-Z]"
        r"|\AGarmin (?:[Ff]enix|Forerunner|vivo|Venu|Instinct)", "appliance",
    ),
    (("(PC; ",), "", "desktop"),
    # Some Android tablets also send "Mobile". On tablets, Yandex's browser adds "/apad".
    (("/apad", "ab"), r"\A(?=.*Android).*(?:/apad|[ _](?i:tab)(?:let)?[ _\d;)])", "tablet"),
    (
        (
            "Windows Phone", "Lumia", "XBLWP7", "KAIOS", "BlackBerry", "(BB10", "SymbianOS", "MIDP",
            "(Phone; ", "QwantMobile",
        ),
        "", "phone",
    ),
    # Android browsers send "Mobile" on phones only. Other Android apps do not send it.
    (("Mobile",), r"\AMozilla/.*\bMobile\b", "phone"),
    # Computers that run Android.
    (
        ("Android",),
        r"; [^;]*\b(?:Chromebook|Pixelbook|Inspiron|Latitude|Vostro|EliteBook|ProBook|ThinkPad|TravelMate|Aspire)\b",
        "desktop",
    ),
    # Boxes and televisions with Android: "TV", a known model, or a model that starts with a screen size.
    (
        ("Android",),
        r"\A(?:Mozilla|Dalvik)/.*(?:(?<!D)TV\b|TV_|\b[Bb]ox\b|\bBOX|(?<!\w)4K\b|UHD|\bSTB|\bShell\b"
        r"|\b(?:[XTH]9[56]|A95X|S95|HK1|MXQ|TX\d|UGOOS|Beelink)"
        r"|; (?:2[48]|3[29]|4[0-9]|5[058]|6[05]|7[05])[A-Z]{2}\w+[ )])",
        "appliance",
    ),
    (("Android",), r"\AMozilla/", "tablet"),
)  # fmt: skip
# Systems that decide the type if no row above matches.
TYPES_OF_SYSTEMS = {
    "desktop": {"macOS", "Windows", "ChromeOS"},
    "phone": {
        "Windows CE", "Windows Mobile", "Windows Phone", "BlackBerry OS", "Symbian OS", "Nokia Series 40", "Bada", "BREW",
        "Firefox OS", "KaiOS",
    },
    "tablet": {"Kindle"},
    "appliance": {"tvOS"},
}  # fmt: skip

# Signs of a computer, used if the system does not decide the type.
DESKTOP_SIGNS = r"\bX11\b|Macintosh|\bDesktop\b|\bWin(?:NT| ?9[58x])\b"
# The systems on which "Safari" means Safari. Elsewhere, other WebKit browsers send it to get Safari's pages.
SAFARI_SYSTEMS = frozenset({"iOS", "iPadOS", "macOS", "watchOS", "visionOS", "Windows"})

# Names of libraries and tools.
SCRIPTS = (
    r"(?:grpc|python|headless)[ -].*"
    r"|(?:connect|lib|aws-sdk|go|php|lua|rest|http|okhttp|node|java|perl)-.*"
    r"|(?:go|php|lua|okhttp|node|java|perl|python)[\d.]*"
    r"|.*[-_.](?:http|https|client|sdk|requests)|.*http-?client|.* http client|.* update"
    r"|apache-httpclient.*|winhttp.*|libcurl|libwww-perl"
    r"|curl|wget|httpie|powershell|postmanruntime|insomnia|k6|ffmpeg|git|conda"
    r"|aiohttp|urllib3|urlgrabber|axios|undici|got|deno|bun|dart|reqwest|guzzlehttp|faraday|ruby|jsdom|phantomjs"
    r"|www-mechanize|boto3|botocore"
)
# Parts of names that crawlers give themselves.
BOT_NAMES = r"bot\b|bot[-_/]|spider|crawl|slurp|InspectionTool|scraper|fetcher|scanner|checker|validator|UriPreview"
