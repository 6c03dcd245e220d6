"""The tables of vocabulary.py: what is written for body parts, views and species, and the codes of the standard.

Body parts are Defined Terms of PS3.16 Annex L where it has one; views are those of View Position (PS3.3 C.8.1.1 and
C.8.11.5) and a few that say less. Codes of SNOMED (PS3.16 CID 4009, 4010, 7454) were taken from pydicom.sr, where
399348003 is antero-posterior and 272479007 postero-anterior; R-10214 is the retired code of the latter. Left out on
purpose: words that mean something else in another language of these archives (main, sein, cote, yan, profile).
"""

BODY_PARTS = {
    "CHEST": "chest, thorax, thoracic, torax, tórax, torace, torácico, thoracique, toraks, toraxu, thorakal, cxr,"
    " brust, brustkorb, brustraum, poumon, poumons, pulmonaire, poitrine, pecho, pulmón, pulmones, pulmão, polmone,"
    " polmoni, lunge, lungen, longen, borstkas, hemithorax, lungor, lungs heart, heart lung, cor pulmo, cor pulm,"
    " hjärta lungor, hjerte lunger, klatka piersiowa, klatki piersiowej, piersiowej, płuca, plíce, hrudník, mellkas,"
    " akciğer, göğüs, keuhkot, keuhkojen, rintakehä, plămâni, klatka, klatki, toraxe, pulmonar, toraco pulmonar,"
    " toracopulmonar, lunger, thx, xchest, pchest, xthorax, pthorax, xtorax, ptorax, грудь, грудная клетка,"
    " грудной клетки, легкие, огк, θώρακας, phổi, 胸部, 胸片, 胸, 흉부, صدر",
    "LUNG": "lung, lungs, pulmo, pulmonary",
    "HEART": "heart, herz, coeur, cœur, corazón, cuore, hjärta, hjerte, cardiac",
    "MEDIASTINUM": "mediastinum",
    "RIB": "rib, ribs, rippe, rippen, costilla, costillas, parrilla costal, cotes, gril costal, costole, ribben, 肋骨",
    "STERNUM": "sternum, esternón, sterno",
    "CLAVICLE": "clavicle, clavicula, clavícula, klavikula, schlüsselbein, schluesselbein, clavicola",
    "SCAPULA": "scapula, schulterblatt, escápula, omoplate",
    "SHOULDER": "shoulder, schulter, hombro, épaule, spalla, ombro, schouder, spalle, acjoint, ac joint, axelled, 肩",
    "BREAST": "breast, mamma, mama, mammo, mammography, mamografía, mammographie, seins",
    "ABDOMEN": "abdomen, abdominal, abd, kub, bauch, bauchraum, addome, buik, vientre, asp, buköversikt, 腹部",
    "PELVIS": "pelvis, becken, pelvic, bassin, bacino, bekken, bäcken, 骨盤",
    "CHESTABDOMEN": "chestabdomen, thoraxabdomen, babygram, toracoabdominal",
    "CHESTABDPELVIS": "chestabdpelvis",
    "NECKCHEST": "neckchest",
    "NECK": "neck, hals, cuello, cou, collo, pescoço, nek",
    "HEAD": "head, kopf, cabeza, tête, testa, cabeça, hoofd, facial bones, facial, sinus, sinuses, nnh, nasal, orbit,"
    " orbita, orbital, órbita, orbitae, 頭部",
    "SKULL": "skull, schädel, schaedel, cráneo, crâne, cranio, crânio, schedel",
    "JAW": "jaw, jaws, mandible, mandibula, kiefer, unterkiefer, oberkiefer, maxilla, tmj",
    "SPINE": "spine, wirbelsäule, wirbelsaeule, columna, rachis, colonna, colonne, coluna, scoliosis,"
    " ganzwirbelsäule, whole spine",
    "CSPINE": "cspine, c spine, cervical spine, cervical, hws, halswirbelsäule, halswirbelsaeule, rachis cervical,"
    " columna cervical, colonne cervicale",
    "TSPINE": "tspine, t spine, thoracic spine, dorsal spine, bws, brustwirbelsäule, brustwirbelsaeule,"
    " rachis dorsal, columna dorsal, columna torácica, colonne dorsale, dorsolumbar",
    "LSPINE": "lspine, l spine, lumbar spine, lumbar, lws, lendenwirbelsäule, lendenwirbelsaeule, rachis lombaire,"
    " columna lumbar, colonne lombaire, lumbosacral, lsspine, ls spine",
    "TLSPINE": "tlspine, thoracolumbar, thoracolumbar spine",
    "SSPINE": "sspine, sacrum, sacral, kreuzbein",
    "COCCYX": "coccyx, steissbein, steißbein",
    "SIJOINT": "sijoint, si joint, isg, sacroiliac",
    "HIP": "hip, hips, hüfte, huefte, hüftgelenk, cadera, hanche, anca, quadril, heup, 股関節",
    "FEMUR": "femur, fémur, femoral, oberschenkel",
    "THIGH": "thigh, muslo, cuisse",
    "KNEE": "knee, knees, knie, rodilla, genou, ginocchio, ginocchia, joelho, 膝",
    "PATELLA": "patella, kniescheibe, rótula",
    "LEG": "leg, legs, lower leg, unterschenkel, pierna, jambe, gamba, perna, tibia, fibula, tibfib, tib fib,"
    " tibia fibula, long leg, lower limb, lower extremity",
    "ANKLE": "ankle, sprunggelenk, osg, tobillo, cheville, caviglia, caviglie, tornozelo, enkel, enkelgewricht",
    "FOOT": "foot, feet, fuss, fuß, füße, fuesse, pies, pied, piede, piedi, pé, pés, voet, voeten, fot, fötter,"
    " calcaneus, heel, heels, fersenbein, 足",
    "TOE": "toe, toes, zehe, zehen, dedo del pie, orteil",
    "HUMERUS": "humerus, oberarm, húmero, humérus, upper arm",
    "ELBOW": "elbow, ellenbogen, ellbogen, codo, coude, gomito, gomiti, cotovelo, elleboog",
    "FOREARM": "forearm, unterarm, antebrazo, avant bras, avambraccio, antebraço, radius, ulna",
    "ARM": "arm, arms, upper limb, upper extremity, brazo, bras, braccio",
    "WRIST": "wrist, handgelenk, muñeca, poignet, polso, polsi, punho, pols, polsen, scaphoid, kahnbein",
    "HAND": "hand, hands, hände, haende, handen, mano, manos, mani, main gauche, main droite, mains, mão, mãos, 手",
    "FINGER": "finger, fingers, dedo, doigt, vinger, zeigefinger, mittelfinger, ringfinger",
    "THUMB": "thumb, daumen, pulgar, pouce",
    "EXTREMITY": "extremity, extremities, extremität, extremidad",
    "ESOPHAGUS": "esophagus, oesophagus, ösophagus, esófago",
    "STOMACH": "stomach, magen, estómago",
    "COLON": "colon, kolon",
    "KIDNEY": "kidney, niere, riñón",
    "BRAIN": "brain, cerebro, gehirn",
    "TOOTH": "tooth, teeth, zahn, zähne, dental, opg, panoramic",
    "WHOLEBODY": "wholebody, whole body, ganzkörper, skeletal survey",
}

BODY_PART_STEMS = {
    "CHEST": "thorax, lungen, brustkorb",
    "CHESTABDOMEN": "thoraxabdom",
    "RIB": "rippen, ribben, revben, thoraxskelet",
    "STERNUM": "brustbein, borstbeen, bröstben, sternoclav, sternoklav",
    "CLAVICLE": "clavic, klavik, schlüsselbein, schluesselbein, sleutelbeen, nyckelben",
    "SCAPULA": "schulterblatt, schouderblad, skulderblad, scapul",
    "SHOULDER": "schulter, schouder, skulder, acromioclav, akromioklav",
    "ABDOMEN": "abdom, bauch, buik",
    "PELVIS": "becken, bekken, bækken, bäckenö, bäckenet",
    "HEAD": "nasennebenh, nebenhöhl, neusbijh, gesicht, bihål",
    "SKULL": "schädel, schaedel, schedel",
    "JAW": "kiefer, unterkiefer, oberkiefer, onderkaak, bovenkaak, mandibul",
    "SPINE": "wirbel, wervelkolom, kotpelar",
    "CSPINE": "halswirbel, halswervel, halsrygg",
    "TSPINE": "brustwirbel, borstwervel, bröstrygg, thoraxwirbel",
    "LSPINE": "lendenwirbel, lendenwervel, ländrygg, lumbosacr, lumbosakr",
    "TLSPINE": "thoracolumb, thorakolumb",
    "SSPINE": "kreuzbein, heiligbeen",
    "COCCYX": "steissbein, steißbein",
    "SIJOINT": "iliosakral, iliosacral, sacroilia, sakroilia",
    "HIP": "hüft, hueft, heup, höft, hofte",
    "FEMUR": "oberschenkel, bovenbeen, dijbeen, lårben",
    "KNEE": "knie",
    "PATELLA": "kniescheib, knieschijf, patell",
    "LEG": "unterschenkel, onderbeen, underben",
    "ANKLE": "sprunggelenk, fussgelenk, ankel, fotled",
    "FOOT": "fusswurz, mittelfuss, vorfuss, rückfuss, voetwortel, metatars, calcane, fersen",
    "TOE": "zehen, grosszeh",
    "HUMERUS": "oberarm, bovenarm, överarm",
    "ELBOW": "ellenbogen, ellbogen, elleboog, albue, armbåg",
    "FOREARM": "unterarm, onderarm, underarm",
    "WRIST": "handgelenk, handwurzel, handleds, handleden, handledd, carpal",
    "HAND": "mittelhand, middenhand, metacarp",
    "FINGER": "fingergelenk, fingergrund",
    "THUMB": "daumen",
    "KIDNEY": "nieren",
}
"""Beginnings of longer words, which German, Dutch and Scandinavian languages compose: Kniegelenk, Beckenübersicht.

Accents are not told apart. Left out on purpose: those of other words (hand: handheld; håndled: handled; fuss: fussy;
kopf: Kopfschmerz; enkel: enkelt; bäcken: backend).
"""

STANDING_OR_FOOT = {"FOOT": "pie"}
"""Spanish: de pie is standing. Alone it is the foot, beside a thorax word the pose (TORAX PIE)."""

VIEWS = {
    "PA": "pa, p a, postero anterior, posteroanterior, posterior anterior, postero anteriore, dv, d v, dorsoventral,"
    " dorso ventral, 後前位, 后前位",
    "AP": "ap, a p, antero posterior, anteroposterior, anterior posterior, antero posteriore, vd, v d, ventrodorsal,"
    " ventro dorsal, 前後位, 前后位",
    "FRONTAL": "frontal, face, de face, frente, front, frontale, voorachterwaarts, прямая, 正面, 正位",
    "LORDOTIC": "lordotic, apical lordotic, lordótica, lindblom, apicogram, apical",
    "LL": "linksanliegend, links anliegend, li anliegend, li anl, links anl, ll, l l, llat, l lat, lt lat, lat l,"
    " lat lt, left lateral, lateral left, lat left, left lat, lateral izquierda, latero laterale, laterolateral,"
    " latero lateral",
    "RL": "rechtsanliegend, rechts anliegend, re anliegend, re anl, rechts anl, rl, rlat, r lat, rt lat, lat r,"
    " lat rt, right lateral, lateral right, lat right, right lat, lateral derecha",
    "LATERAL": "lateral, lat, laterale, lateralis, lateraal, lateralt, xtable lateral, xtlat, seitlich, seitl,"
    " seitbild, profil, profilo, perfil, sagittal, sidebild, sidobild, sidebillede, sidebilde, 2 ebene, zweite ebene,"
    " dwars, bok, boczny, sivu, sivukuva, swimmers, boczne, boczna, bočná, oldal, боковая, 側面, 侧位, 側位, 측면",
    "LLD": "lld, lldecub, ll decub, ldecub, l decub, left lateral decubitus, lt lat decub, left lat decub,"
    " left decubitus, left decub",
    "RLD": "rld, rldecub, rl decub, rdecub, r decub, right lateral decubitus, rt lat decub, right lat decub,"
    " right decubitus, right decub",
    "DECUBITUS": "decubitus, decub, decúbito, lateral decubitus, lat decub, decub lat, decúbito lateral,"
    " lat decubitus, seitenlage",
    "LLO": "llo, left lateral oblique",
    "RLO": "rlo, right lateral oblique",
    "LAO": "lao, left anterior oblique",
    "RAO": "rao, right anterior oblique",
    "LPO": "lpo, left posterior oblique",
    "RPO": "rpo, right posterior oblique",
    "OBLIQUE": "oblique, obl, obli, obliqua, obliquo, oblicua, oblicuo, oblíqua, schräg, schraeg, schrägaufnahme,"
    " schuin, skośne, left oblique, right oblique, lat oblique, lateral oblique, 斜位",
    "AXIAL": "axial, axiale, tangential, transthoracic",
}
FRONTAL_VIEWS = ("PA", "AP", "FRONTAL")
LATERAL_VIEWS = ("LL", "RL", "LATERAL")

VIEW_ENDINGS = {
    "LATERAL": "later, thorax p, torax p, torace p, poumon p, poumons p, thorax side, chest side, lunger side,"
    " thorax sida, lungor sida",
}
"""What names a view only as the end of a text: names cut off (CHEST LATER), profil (THORAX P), and words that mean
something else elsewhere (side; sida)."""

VIEW_POSITIONS = {"LATERAL": "l, r, side"}
"""What names a view only where it is all that View Position says."""

VIEW_POSITION_STEMS = {"LATERAL": "lat, seit", "LORDOTIC": "lord", "DECUBITUS": "decub"}
"""Beginnings of words that name a view in View Position only, where nobody is late or wears latex."""

ANIMALS = {
    "SPECIES": "canine, feline, equine, canino, felino, equino, veterinary, veterinarian, veterinaria, veterinario,"
    " veterinär, veterinaer, vétérinaire, tierarzt, tierklinik, kleintier",
    "CREATURE": "dog, dogs, puppy, cat, cats, kitten, horse, pony, foal, cow, sheep, goat, pig, rabbit, ferret,"
    " reptile, hund, hunde, katze, katzen, pferd, pferde, kaninchen, schaf, perro, gato, caballo, conejo, chien,"
    " cheval, lapin, gatto, cavallo, coniglio, cachorro, собака, кошка, 犬, 猫, animal, bovine, ovine, porcine,"
    " caprine",
    "BREED": "canis, felis, equus, bos taurus, sus scrofa, ovis, capra, oryctolagus, rattus, mus musculus, macaca,"
    " avian, bird, parrot, exotic, rodent, rat, mouse, murine, hamster, guinea pig, monkey, macaque, primate, lizard,"
    " snake, turtle, tortoise, swine, siamese, labrador, retriever, shepherd, terrier, poodle, beagle, bulldog,"
    " dachshund, shorthair, longhair, dsh, dlh, mixed breed, mongrel, maine coon, chihuahua, boxer, rottweiler, husky,"
    " spaniel, collie, thoroughbred, warmblood",
}
"""SPECIES counts wherever it is written. CREATURE may also have kicked or bitten the patient, or given a valve, and
counts only in texts of devices; BREED only where species or breed is asked for."""

SILENT = {
    "": "unknown, other, none, unspecified, undefined, default, na, n a, any, generic, standard, auto, erect,"
    " upright, standing, sitting, supine, prone, portable, mobile, bed, bedside, stehend, sitzend, liegend, bett,"
    " de pie, en pie, acostado, debout, couche, assis, cat scan, view, views, rx, xr, rtg, 6 foot, 6 feet, 6 ft,"
    " c arm, hand held, head of bed, head first, feet first, arms up, arms down, femoral line, pig o stat,"
    " 1 2 ebene, 1 und 2 ebene, cat 1, cat 2, cat 3, cat 4, cat 5, cat i, cat ii, cat iii, cat iv",
}
"""Words that say nothing of body part or view, though a word in them may seem to: CAT 3 is a category."""

_MODALITIES = (
    "ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DR DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL"
    " IVOCT IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG"
    " RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SC SEG SM SMR SR SRF STAIN"
    " TEXTUREMAP TG US VA XA XAPROTOCOL XC XR"
)
MODALITIES = frozenset(_MODALITIES.split())
"""Defined terms of Modality, some retired ones, and DR, SC and XR, which are none. Source: PS3.3 C.7.3.1.1.1."""

PHOTOMETRIC_INTERPRETATIONS = frozenset(
    (
        *("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "YBR_FULL", "YBR_FULL_422"),
        *("YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "XYB"),
    )
)
"""Defined terms, retired ones included. Source: PS3.3 C.7.6.3.1.2."""

_VIEW_CODES = {
    "PA": "272479007 R-40888 R-10214",
    "AP": "399348003 R-10206",
    "FRONTAL": "399033003 R-10202",
    "LL": "399173006 R-10236",
    "RL": "399198007 R-10232",
    "LATERAL": "399067008 R-102CD 399260004 R-10224 399352003 R-10228 30730003 G-A145",
    "LAO": "399135007 R-10220",
    "RAO": "399356000 R-40985",
    "LPO": "399006002 R-10212",
    "RPO": "399038007 R-10210",
    "OBLIQUE": "399182000 R-102C1 399184004 R-10238 399236003 R-10234 399312000 R-10208 399059000 R-10216 399160007"
    " R-10204 399368009 R-10226 399099002 R-10230 260426006 R-40782 260427002 R-40783 399004004 R-10246",
    "AXIAL": "399061009 R-10241 399110001 R-102C2",
}

_BODY_PART_CODES = {
    "CHEST": "T-D3000 51185008 816094009",
    "LUNG": "T-28000 39607008 T-280A0 86598002",
    "CHESTABDOMEN": "R-FAB55 416550000",
    "CHESTABDPELVIS": "R-FAB56 416775004 R-FAB54 416319003",
    "NECKCHEST": "R-FAB52 417437006 R-FAB53 416152001",
    "HEART": "T-32000 80891009",
    "MEDIASTINUM": "T-D3300 72410000",
    "RIB": "T-11300 113197003",
    "STERNUM": "T-11210 56873002",
    "CLAVICLE": "T-12310 51299004",
    "SCAPULA": "T-12280 79601000",
    "SHOULDER": "T-D2220 16982005",
    "BREAST": "T-04000 76752008",
    "ABDOMEN": "T-D4000 113345001 818981001 818982008 818983003",
    "PELVIS": "T-D6000 12921003 816092008",
    "NECK": "T-D1600 45048000",
    "HEAD": "T-D1100 69536005 T-D1000 774007",
    "SKULL": "T-11100 89546000",
    "JAW": "T-D1213 661005 T-11180 91609006 T-11170 70925003",
    "SPINE": "T-D04FF 421060004",
    "CSPINE": "T-11501 122494005",
    "TSPINE": "T-11502 122495006",
    "LSPINE": "T-11503 122496007 1217253001",
    "TLSPINE": "1217256009",
    "HIP": "T-D2500 29836001 T-15710 24136001",
    "FEMUR": "T-12710 71341001",
    "KNEE": "T-D9200 72696002",
    "LEG": "T-D9400 30021000 T-D9000 61685007",
    "ANKLE": "T-15750 70258002",
    "FOOT": "T-D9700 56459004",
    "HUMERUS": "T-12410 85050009",
    "ELBOW": "T-15430 16953009",
    "FOREARM": "T-D8500 14975008",
    "WRIST": "T-15460 74670003",
    "HAND": "T-D8700 85562004",
    "FINGER": "T-D8800 7569003",
    "EXTREMITY": "T-D0300 66019005",
    "WHOLEBODY": "T-D0010 38266002",
}

VIEW_CODES = {value: code for code, values in _VIEW_CODES.items() for value in values.split()}
"""Code values of View Code Sequence. Source: PS3.16 CID 4010."""

BODY_PART_CODES = {value: code for code, values in _BODY_PART_CODES.items() for value in values.split()}
"""Code values of Anatomic Region Sequence. Source: PS3.16 CID 4009, 4031 and Annex L."""

HUMAN_CODES = ("337915000", "L-85003")
"""Homo sapiens in Patient Species Code Sequence. Source: PS3.16 CID 7454."""

HUMAN_WORDS = frozenset({"HUMAN", "HOMO", "SAPIENS", "HUMANO", "HUMAIN", "MENSCH", "UMANO"})
