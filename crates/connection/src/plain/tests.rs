use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const MYSQL: PlainStatements = PlainStatements::new(
    Syntax::MySql,
    &["SELECT", "INSERT", "COMMIT"],
    &["TEMPORARY", "GET_LOCK"],
)
.lasting_unless_plain(&["RESOURCE"]);
const POSTGRES: PlainStatements = PlainStatements::new(
    Syntax::Postgres,
    &["SELECT", "INSERT", "EXPLAIN", "CREATE", "SET LOCAL"],
    &["SET_CONFIG", "PG_ADVISORY_LOCK*"],
)
.if_made(&["TEMP"])
.transaction_local(&["SET_CONFIG"])
.lasting(&["SETSEED"])
.lasting_unless_plain(&["LOAD"]);
const SQLITE: PlainStatements =
    PlainStatements::new(Syntax::Sqlite, &["SELECT", "INSERT", "CREATE"], &["TEMP"])
        .if_made(&["TEMPORARY"]);
const ALL: [PlainStatements; 3] = [MYSQL, POSTGRES, SQLITE];

#[track_caller]
fn plain(statements: &PlainStatements, texts: &[&str]) {
    for sql in texts {
        assert!(statements.contains(sql.as_bytes()), "{:?}: {sql}", statements.syntax);
    }
}

#[track_caller]
fn suspect(statements: &PlainStatements, texts: &[&str]) {
    for sql in texts {
        assert!(!statements.contains(sql.as_bytes()), "{:?}: {sql}", statements.syntax);
    }
}

#[test]
fn what_every_database_reads_alike() {
    for statements in &ALL {
        plain(
            statements,
            &[
                "SELECT 1",
                "  select 1;\n",
                "SELECT 1; -- and no more\n",
                "/* why */ -- because\n SELECT 1",
                "(SELECT 1) UNION ((SELECT 2))",
                "SELECT attempts, template, temperature FROM t WHERE x = 'temp'",
                "SELECT 'set_config', ';', 'it''s get_lock', '/*', '--'",
                "INSERT INTO t VALUES ('ann@example.com', 'a;b', ?)",
                "SELECT 2 - -1, 4 / 2 /* temp; get_lock */",
                "SELECT \"a;b\" FROM t",
            ],
        );
        suspect(
            statements,
            &[
                "",
                ";",
                "-- SELECT 1",
                "/* SELECT 1",
                "SELECTED",
                "\"SELECT\" 1",
                "'SELECT' 1",
                "SET x = 1",
                "; SELECT 1",
                "SELECT 1; SET x = 1",
                "SELECT 1;;",
                "SELECT 'a",
                "SELECT \"a",
                "SELECT 1 /* a",
                "SELECT 'a' '; SET x = 1",
                "SELECT 1\0",
                "SELECT 'a'; SET x = 'b'",
                "SELECT 'a'';'; SET x = 'b'",
                "SELECT 1 -- a\n; SET x = 1",
            ],
        );
    }
}

#[test]
fn mysql() {
    plain(
        &MYSQL,
        &[
            "SELECT 1 # get_lock; @x\n",
            "SELECT `a;b`, `it``s`, \"it\"\"s\"",
            "SELECT @@version, @@session.wait_timeout",
            r"SELECT 'it\\'",
            "SELECT 2--1",
            "SELECT /*+ MAX_EXECUTION_TIME(1000) */ 1",
        ],
    );
    suspect(
        &MYSQL,
        &[
            "SELECT @x := 1",
            "SELECT 1 INTO @`x`",
            "SELECT get_lock('a', 1)",
            "SELECT `get_lock`('a', 1)",
            "SELECT \"GET_LOCK\"('a', 1)",
            "SELECT /*!40101 @x := */ 1",
            "SELECT /*M! 1 */ 1",
            "SELECT 1--1; SET x = 1",
            "SELECT /*+ QB_NAME(`a*/ '`) */ ; SET x = 1; -- '",
            // With and without escapes, and with `ANSI_QUOTES`.
            r"SELECT '\'; SET x = 1; -- '",
            r"SELECT 'a\'; SET x = 1; -- b'",
            r#"SELECT "\"; SET x = 1; -- ""#,
            r#"SELECT '\'', "\"; SET x = 1; -- ""#,
        ],
    );
}

#[test]
fn postgres() {
    plain(
        &POSTGRES,
        &[
            "SELECT $1, $$;temp$$, $a$ $b$ ; $a$",
            "SELECT 1 /* /* temp; */ */",
            r"SELECT E'it\'s;', e'\\', 'a'",
            "SELECT a[1], '@', x @> y, x::text FROM t",
            "SELECT pg_advisory_xact_lock(1)",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 1; $$",
            "SET LOCAL search_path = a, b",
            "set /* why */ local role to a;",
            "SELECT temp, temp.a FROM temp",
            "INSERT INTO t (temp) VALUES (1)",
            "SELECT set_config('a', $1, true), set_config(lower('b'), (SELECT c), TRUE)",
        ],
    );
    suspect(
        &POSTGRES,
        &[
            "SELECT set_config('a', 'b', false)",
            "SELECT \"set_config\"('a', 'b', false)",
            "SELECT set_config('a', 'b', $1)",
            "SELECT set_config('a', 'b', not true)",
            "SELECT set_config('a', 'b', true or x), true",
            "SELECT set_config('a', set_config('b', 'c', false), true)",
            "SELECT set_config('a', 'b', true",
            "SELECT set_config, true",
            "SET search_path = local",
            "SET \"local\" = 1",
            "SET SESSION x = 1",
            "SET LOCAL.x = 1",
            "SET LOCAL",
            "SELECT 1 INTO TEMP t",
            "SELECT 1 INTO LOCAL TEMP t",
            "EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1",
            "SET",
            "SELECT U&\"\\0073et_config\"('a', 'b', false)",
            "SELECT pg_advisory_lock_shared(1)",
            "CREATE TEMP TABLE t (id INT)",
            "SELECT 1 /* /* */ ; SET x = 1 */ ; SET x = 1",
            "SELECT 1 -- a\r; SET x = 1",
            "SELECT $a$ $b$; SET x = 1",
            "SELECT $1$; SET x = 1; SELECT $1$",
            "SELECT a$$; SET x = 1; SELECT b$$",
            r"SELECT '\'; SET x = 1; --'",
            r"SELECT E'\\'; SET x = 1; --'",
            "SELECT E'a'\n'b\\'; SET x = 1; -- '",
        ],
    );
}

#[test]
fn what_no_reset_removes() {
    let alterations = [
        ("SELECT load, 'setseed' FROM t", Alteration::Nothing),
        ("SET x = 'load' -- load", Alteration::Resettable),
        ("LOAD 'auto_explain'", Alteration::Lasting),
        ("SET x = 1; SELECT \"setseed\"(0.5)", Alteration::Lasting),
        (r"SET x = '\'; LOAD 'auto_explain'; -- '", Alteration::Lasting),
    ];
    for (sql, alteration) in alterations {
        assert_eq!(POSTGRES.alteration(sql.as_bytes()), alteration, "{sql}");
    }
    let executed = b"/*!80000 SET RESOURCE GROUP a */";
    assert_eq!(MYSQL.alteration(executed), Alteration::Lasting);
}

#[test]
fn sqlite() {
    plain(
        &SQLITE,
        &[
            "SELECT [a;b], `c;d`, $a, @b, :c, ?1 FROM t",
            "SELECT temporary FROM t",
            "SELECT 'temp' FROM t",
            r"SELECT '\'",
        ],
    );
    suspect(
        &SQLITE,
        &[
            "CREATE TABLE temp.t (id INT)",
            "CREATE TABLE [temp].t (id INT)",
            "CREATE TABLE `temp`.t (id INT)",
            "CREATE TABLE 'temp'.t (id INT)",
            "CREATE TABLE 'temp' /**/ .t (id INT)",
            r"SELECT '\'; SET x = 1; --'",
            "SELECT [a; SET x = 1",
            "CREATE \u{feff}TEMP TABLE t (id INT)",
            "CREATE TABLE 'temp'\u{feff}.t (id INT)",
            "SELECT $a('); SET x = 1; --'",
            "SELECT @a::b('); SET x = 1; --'",
            "SELECT :a('); SET x = 1; --'",
        ],
    );
}

/// Pieces that are whole, whatever is in them, for every database.
fn piece() -> impl Strategy<Value = String> {
    let text = "[a-z@;#\\[\\]$`?(): \n]{0,8}";
    prop_oneof![
        select(vec![" a ", " 1 ", "(", ")", ",", " = ", " ? ", "\n"]).prop_map(str::to_owned),
        text.prop_map(|text| format!("'{}'", text.replace('\'', "''"))),
        text.prop_map(|text| format!("\"{}\"", text.replace('"', "\"\""))),
        text.prop_map(|text| format!("/* {text} */")),
        "[a-z@;'\" ]{0,8}".prop_map(|text| format!("-- {text}\n")),
    ]
}

proptest! {
    #[test]
    fn literals_and_comments_do_not_count(pieces in prop::collection::vec(piece(), 0..8)) {
        let sql = format!("SELECT {}", pieces.join(" "));
        for statements in &ALL {
            prop_assert!(statements.contains(sql.as_bytes()), "{:?}: {sql}", statements.syntax);
        }
    }

    #[test]
    fn what_stands_between_them_does(
        before in prop::collection::vec(piece(), 0..6),
        after in prop::collection::vec(piece(), 0..6),
        dirt in select(vec!["; SET x = 1", "get_lock(1)", "temp", "temporary", "set_config()"]),
    ) {
        let sql = format!("SELECT {} {dirt} {}", before.join(" "), after.join(" "));
        for statements in &ALL {
            let counts = dirt.starts_with(';')
                || statements.unless.iter().any(|word| {
                    let dirt = dirt.split('(').next().unwrap_or_default();
                    word.eq_ignore_ascii_case(dirt)
                });
            prop_assert_eq!(statements.contains(sql.as_bytes()), !counts, "{}", sql);
        }
    }

    #[test]
    fn nothing_makes_it_panic(sql in prop::collection::vec(any::<u8>(), 0..64)) {
        let quoted = [b"SELECT ".as_slice(), &sql].concat();
        for statements in &ALL {
            let _ = (statements.alteration(&sql), statements.alteration(&quoted));
        }
    }

    #[test]
    fn every_token_goes_on(sql in "[-/*'\"`$@;E\\\\\\[\\]#!M& \na]{0,40}") {
        for syntax in [Syntax::MySql, Syntax::Postgres, Syntax::Sqlite] {
            for tokens in Scanner::ways(sql.as_bytes(), syntax) {
                prop_assert!(tokens.take(sql.len() + 1).count() <= sql.len());
            }
        }
    }

    #[test]
    fn nor_does_a_storm_of_quotes(sql in "[-/*'\"`$@;E\\\\\\[\\]#! \na]{0,40}") {
        for statements in &ALL {
            let _ = statements.alteration(format!("SELECT {sql}").as_bytes());
        }
    }
}
