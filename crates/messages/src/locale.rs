//! The kernel's errors in other languages, as the C library prints them for programs that set a locale (coreutils,
//! util-linux, shadow). Programs in Go and Rust do not.

use std::sync::LazyLock;

use super::pattern::{Line, Pattern};

/// The English text of an error, and its translations in the C library.
const ERRORS: [(&str, &[&str]); 10] = [
    (
        "Permission denied",
        &[
            "Keine Berechtigung",
            "Permission non accordée",
            "Permiso denegado",
            "Permesso negato",
            "Permissão negada",
            "Permissão recusada",
            "Toegang geweigerd",
            "Brak dostępu",
            "Operace zamítnuta",
            "Åtkomst nekas",
            "Erişim engellendi",
            "Отказано в доступе",
            "Відмовлено у доступі",
            "許可がありません",
            "허가 거부",
            "权限不够",
            "拒絕不符權限的操作",
        ],
    ),
    (
        "Operation not permitted",
        &[
            "Die Operation ist nicht erlaubt",
            // From glibc 2.37 on.
            "Vorgang nicht zulässig",
            "Opération non permise",
            "Operación no permitida",
            "Operazione non permessa",
            "Operação não permitida",
            "Actie is niet toegestaan",
            "Operacja niedozwolona",
            "Operace není povolena",
            "Operationen inte tillåten",
            "İşleme izin verilmedi",
            "Операция не позволена",
            "Дію заборонено",
            "許可されていない操作です",
            "명령을 허용하지 않음",
            "不允许的操作",
            "此項操作並不被允許",
        ],
    ),
    (
        "Invalid argument",
        &[
            "Das Argument ist ungültig",
            "Argument invalide",
            "Argumento inválido",
            "Argomento non valido",
            "Ongeldig argument",
            "Zły argument",
            "Nepřípustný argument",
            "Ogiltigt argument",
            "Geçersiz argüman",
            "Недопустимый аргумент",
            "Некоректний аргумент",
            "無効な引数です",
            "부적절한 인수",
            "无效的参数",
            "不適用的引數",
        ],
    ),
    (
        "No space left on device",
        &[
            "Auf dem Gerät ist kein Speicherplatz mehr verfügbar",
            "Aucun espace disponible sur le périphérique",
            "No queda espacio en el dispositivo",
            "Spazio esaurito sul device",
            "Não há espaço disponível no dispositivo",
            "Sem espaço livre no dispositivo",
            "Geen ruimte meer over op apparaat",
            "Brak miejsca na urządzeniu",
            "Na zařízení není volné místo",
            "Enheten är full",
            "Aygıt üzerinde boş yer yok",
            "На устройстве не осталось свободного места",
            "Недостатньо місця на пристрої",
            "デバイスに空き領域がありません",
            "장치에 남은 공간이 없음",
            "设备上没有空间",
            "裝置上已無多餘空間",
        ],
    ),
    (
        "No such file or directory",
        &[
            "Datei oder Verzeichnis nicht gefunden",
            "Aucun fichier ou dossier de ce type",
            "No existe el fichero o el directorio",
            "File o directory non esistente",
            "Arquivo ou diretório inexistente",
            "Ficheiro ou pasta inexistente",
            "Bestand of map bestaat niet",
            "Nie ma takiego pliku ani katalogu",
            "Adresář nebo soubor neexistuje",
            "Filen eller katalogen finns inte",
            "Böyle bir dosya ya da dizin yok",
            "Нет такого файла или каталога",
            "Немає такого файла або каталогу",
            "そのようなファイルやディレクトリはありません",
            "그런 파일이나 디렉터리가 없습니다",
            "没有那个文件或目录",
            "沒有此一檔案或目錄",
        ],
    ),
    (
        "Read-only file system",
        &[
            "Das Dateisystem ist nur lesbar",
            "Système de fichiers accessible en lecture seulement",
            "Sistema de ficheros de sólo lectura",
            "File system in sola lettura",
            "Sistema de arquivos somente para leitura",
            "Sistema de ficheiros só de leitura",
            "Bestandssysteem is alleen-lezen",
            "System plików wyłącznie do odczytu",
            "Systém souborů je pouze pro čtení",
            "Skrivskyddat filsystem",
            "Salt-okunur dosya sistemi",
            "Файловая система доступна только для чтения",
            "Файлова система тільки для зчитування",
            "読み込み専用ファイルシステムです",
            "읽기전용 파일 시스템",
            "只读文件系统",
            "唯讀的檔案系統",
        ],
    ),
    (
        "Device or resource busy",
        &[
            "Das Gerät oder die Ressource ist belegt",
            "Périphérique ou ressource occupé",
            "Dispositivo o recurso ocupado",
            "Dispositivo o risorsa occupata",
            "Dispositivo ou recurso está ocupado",
            "Dispositivo ou recurso ocupado",
            "Apparaat of hulpbron is bezig",
            "Urządzenie lub zasoby zajęte",
            "Zařízení nebo zdroj jsou používány",
            "Enhet eller resurs upptagen",
            "Aygıt ya da özkaynak meşgul",
            "Устройство или ресурс занято",
            "Пристрій або ресурс зайнято",
            "デバイスもしくはリソースがビジー状態です",
            "장치나 자원이 동작 중",
            "设备或资源忙",
            "裝置或系統資源忙碌中",
        ],
    ),
    (
        "Function not implemented",
        &[
            "Die angeforderte Funktion ist nicht implementiert",
            "Fonction non implantée",
            "Función no implementada",
            "Funzione non implementata",
            "Função não implementada",
            "Functie is niet aanwezig",
            "Nie zaimplementowana funkcja",
            "Funkce není implementována",
            "Funktion inte implementerad",
            "İşlev bulunamadı (Bir güncelleme gerekebilir)",
            "Функция не реализована",
            "Функцію не реалізовано",
            "関数は実装されていません",
            "함수를 구현하지 않았습니다",
            "函数未实现",
            "功能沒有實作",
        ],
    ),
    (
        "Value too large for defined data type",
        &[
            "Der Wert ist zu groß für den definierten Datentyp",
            "Valeur trop grande pour le type défini de données",
            "Valor demasiado grande para el tipo de datos definido",
            "Valore troppo grande per il tipo di dati definito",
            "Valor muito grande para o tipo de dados definido",
            "Waarde is te groot voor gedefinieerde gegevenssoort",
            "Wartość za duża dla zdefiniowanego typu danych",
            "Hodnota je příliš velká pro daný datový typ",
            "Värdet för stort för definierad datatyp",
            "Atanan veri türü için değer çok büyük",
            "Значение слишком велико для такого типа данных",
            "Значення є надто великим для визначеного типу даних",
            "定義されたデータ型に対して値が大きすぎます",
            "정의한 자료형으로 쓰기엔 너무 큰 값",
            "对已定义的数据类型来说值过大",
            "有定義的資料型別值太大",
        ],
    ),
    (
        "Operation not supported",
        &[
            "Die Operation wird nicht unterstützt",
            "Opération non supportée",
            "La operación no está soportada",
            "Operazione non supportata",
            "Operação sem suporte",
            "Operação não suportada",
            "Actie wordt niet ondersteund",
            "Operacja nie obsługiwana",
            "Operace není podporována",
            "Operationen stöds ej",
            "İşlem desteklenmiyor",
            "Неподдерживаемая операция",
            "Дія не підтримується",
            "サポートされていない操作です",
            "명령을 지원하지 않음",
            "不支持的操作",
            "此項操作並不被支援",
        ],
    ),
];

static TRANSLATIONS: LazyLock<Vec<(&'static str, &'static str, Pattern)>> = LazyLock::new(|| {
    let of = |(english, translations): &(&'static str, &'static [&'static str])| {
        let english = *english;
        translations.iter().map(move |text| (english, *text, Pattern::new(text)))
    };
    ERRORS.iter().flat_map(of).collect()
});

/// The line with the kernel's error in English, if it has one in another language.
pub(super) fn english(line: &Line) -> Option<String> {
    let mut translations = TRANSLATIONS.iter();
    let (english, _, pattern) = translations.find(|(_, _, pattern)| pattern.find(line).is_some())?;
    let found = pattern.find(line)?;
    let (before, rest) = line.as_str().split_at_checked(found.span.start)?;
    let (_, after) = rest.split_at_checked(found.span.len())?;
    Some(format!("{before}{}{after}", english.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_translation_is_one_of_one_error() {
        for (english, text, _) in TRANSLATIONS.iter() {
            let line = Line::new(&format!("newuidmap: write to uid_map failed: {text}"));
            let want = format!("newuidmap: write to uid_map failed: {}", english.to_ascii_lowercase());
            assert_eq!(line.as_str(), want);
        }
    }
}
