"""Published logs as downloaded, in miniature.

File names, headers or none, separators, quoting, times and side files as the publishers describe
them (docs/data.md).
"""

import gzip
import json
from datetime import UTC, datetime


def at(text, zone=UTC):
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp())


def json_lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


AMAZON_HEAD = "user_id,parent_asin,rating,timestamp"
AMAZON_USER = "AFKZENTNBQ7A7V7UXW5JJI6UGRYQ"
YELP = {
    "review_id": "KU_O5udG6zpxOg-VcAEodg", "user_id": "mh_-eMZ6K5RLWhZyISBhwA",
    "business_id": "XQfwVwDr-v0ZS3_CbbE5Xw", "stars": 3.0, "useful": 0, "funny": 0, "cool": 0,
    "text": "If you decide to eat here,\njust be aware …", "date": "2018-07-07 22:09:11",
}  # fmt: skip
GOODREADS = {
    "user_id": "8842281e1d1347389f2ab93d60773d4d", "book_id": "28684704", "review_id": "2ea1", "isRead": True,
    "rating": 5, "date_added": "Sun Jul 30 07:44:10 -0700 2017", "date_updated": "Wed Aug 30 00:00:26 -0700 2017",
    "read_at": "", "started_at": "",
}  # fmt: skip
STEAM = (
    "{u'username': u\"Chaos' Syren\", u'hours': 0.1, u'products': 41, u'product_id': u'725280', "
    "u'page_order': 0, u'date': u'2017-12-17', u'text': u'This would \\u2764 not be', "
    "u'early_access': False, u'page': 1, u'found_funny': None}\n"
)
# ruff: noqa: E501 — lines as they are published
KUAIRAND_HEAD = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,"
    "long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
REES46_HEAD = (
    "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session"
)
OTTO = (
    '{"session":12899779,"events":[{"aid":59625,"ts":1661724000278,"type":"clicks"},'
    '{"aid":1142000,"ts":1661724058352,"type":"carts"}]}\n'
    '{"session":12899780,"events":[{"aid":59625,"ts":1661724091278,"type":"orders"}]}\n'
)
TWEET_TIME = "Tue Apr 03 18:00:09 +0000 2012"

# log: ({file: text}, [event], month of the log's end, what the times are)
LOGS = {
    "movielens 1M": (
        {
            "ratings.dat": "1::1193::5::978300760\n1::661::3::978302109\n",
            "movies.dat": "1::Toy Story (1995)::Animation|Children's|Comedy\n",
            "users.dat": "1::F::1::10::48067\n",
        },
        [("1", "1193", "ratings", 978_300_760), ("1", "661", "ratings", 978_302_109)],
    ),
    "movielens 25M": (
        {
            "ratings.csv": "userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n",
            "movies.csv": 'movieId,title,genres\n11,"American President, The (1995)",Comedy|Drama\n',
            "tags.csv": "userId,movieId,tag,timestamp\n3,260,classic,1439472355\n",
            "links.csv": "movieId,imdbId,tmdbId\n1,0114709,862\n",
            "genome-scores.csv": "movieId,tagId,relevance\n1,1,0.02875\n",
            "genome-tags.csv": "tagId,tag\n1,007\n",
            "README.txt": "Summary\n=======\n",
        },
        [("1", "296", "ratings", 1_147_880_044)],
    ),
    "movielens 100K": (
        {
            "u.data": "196\t242\t3\t881250949\n186\t302\t3\t891717742\n",
            "u.item": "1|Toy Story (1995)|01-Jan-1995||http://us.imdb.com/|0|0\n",
            "u.user": "1|24|M|technician|85711\n",
            "u1.base": "1\t1\t5\t874965758\n",
            "u1.test": "1\t6\t5\t887431973\n",
        },
        [("186", "302", "movielens", 891_717_742), ("196", "242", "movielens", 881_250_949)],
    ),
    "amazon2023 0core rating_only": (
        {"All_Beauty.csv.gz": f"{AMAZON_HEAD}\n{AMAZON_USER},B00YQ6X8EO,5.0,1588687728923\n"},
        [(AMAZON_USER, "B00YQ6X8EO", "All_Beauty", 1_588_687_728)],
    ),
    "amazon2023 5core last_out_w_his": (
        {
            f"Toys_and_Games.{part}.csv.gz": f"{AMAZON_HEAD},history\n{AMAZON_USER},{item},5.0,{time},{his}\n"
            for part, item, time, his in (
                ("train", "B00YQ6X8EO", 1588687728923, ""),
                ("valid", "B081TJ8YS3", 1588687729923, "B00YQ6X8EO"),
                ("test", "B097R46CSY", 1588687730923, "B00YQ6X8EO B081TJ8YS3"),
            )
        },
        [
            (AMAZON_USER, item, "Toys_and_Games", 1_588_687_728 + n)
            for n, item in enumerate(("B00YQ6X8EO", "B081TJ8YS3", "B097R46CSY"))
        ],
    ),
    "yelp": (
        {
            "yelp_academic_dataset_review.json": json_lines(YELP),
            "yelp_academic_dataset_business.json": json_lines(
                {"business_id": YELP["business_id"], "categories": "Doctors, Health & Medical"}
            ),
            "yelp_academic_dataset_tip.json": json_lines(
                {k: YELP[k] for k in ("user_id", "business_id", "text", "date")}
            ),
            "yelp_academic_dataset_user.json": json_lines({"user_id": YELP["user_id"]}),
            "yelp_academic_dataset_checkin.json": json_lines({"business_id": "a", "date": "2018"}),
        },
        [(YELP["user_id"], YELP["business_id"], "yelp", at("2018-07-07 22:09:11"))],
    ),
    "steam": (
        {
            "steam_reviews.json.gz": STEAM,
            "steam_games.json.gz": "{u'publisher': u'Kotoshiro', u'id': u'761140'}\n",
        },
        [("Chaos' Syren", "725280", "steam", at("2017-12-17"))],
    ),
    "goodreads": (
        {
            "goodreads_interactions_poetry.json.gz": json_lines(GOODREADS),
            "goodreads_interactions_comics_graphic.json.gz": json_lines(
                GOODREADS | {"date_added": "Sat Feb 29 23:30:00 -0800 2020"}
            ),
            "goodreads_books_poetry.json.gz": json_lines({"book_id": "28684704", "isbn": ""}),
        },
        [
            (GOODREADS["user_id"], "28684704", "comics_graphic", at("2020-03-01 07:30:00")),
            (GOODREADS["user_id"], "28684704", "poetry", at("2017-07-30 14:44:10")),
        ],
    ),
    "taobao": (
        {"UserBehavior.csv": "1,2268318,2520377,pv,1511544070\n1,2333346,2520771,buy,1511561733\n"},
        [("1", "2268318", "taobao", 1_511_544_070), ("1", "2333346", "taobao", 1_511_561_733)],
    ),
    "tmall": (
        {
            "user_log_format1.csv": (
                "user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type\n"
                "328862,323294,833,2882,2661.0,829,0\n328862,844400,1271,2882,,1111,2\n"
            ),
            "user_info_format1.csv": "user_id,age_range,gender\n376517,6.0,1.0\n",
            "train_format1.csv": "user_id,merchant_id,label\n34176,3906,0\n",
            "test_format1.csv": "user_id,merchant_id,prob\n163968,4605,\n",
        },
        [
            ("328862", "323294", "tmall", at("2014-08-29")),
            ("328862", "844400", "tmall", at("2014-11-11")),
        ],
    ),
    "retailrocket": (
        {
            "events.csv": (
                "timestamp,visitorid,event,itemid,transactionid\n"
                "1433221332117,257597,view,355908,\n1433221999827,158090,addtocart,253185,\n"
            ),
            "item_properties_part1.csv": "timestamp,itemid,property,value\n1435460400000,460429,1,2\n",
            "category_tree.csv": "categoryid,parentid\n1016,213\n",
        },
        [
            ("158090", "253185", "retailrocket", 1_433_221_999),
            ("257597", "355908", "retailrocket", 1_433_221_332),
        ],
    ),
    "rees46": (
        {
            "2019-Oct.csv.gz": (
                f"{REES46_HEAD}\n2019-10-01 00:00:00 UTC,view,44600062,2103807459595387724,,shiseido,"
                "35.79,541312140,72d76fde\n"
            ),
            "2019-Nov.csv.gz": (
                f"{REES46_HEAD}\n2019-11-01 00:00:01 UTC,cart,1003461,2053013555631882655,"
                "electronics.smartphone,xiaomi,489.07,520088904,4d3b30da\n"
            ),
        },
        [
            ("520088904", "1003461", "electronics", at("2019-11-01 00:00:01")),
            ("541312140", "44600062", "no category", at("2019-10-01 00:00:00")),
        ],
    ),
    "hm": (
        {
            "transactions_train.csv": (
                "t_dat,customer_id,article_id,price,sales_channel_id\n"
                "2018-09-20,000058a12d5b,0663713001,0.050830508474576264,2\n"
            ),
            "articles.csv": (
                "article_id,product_code,index_group_name,detail_desc\n"
                '0663713001,0663713,Ladieswear,"Lace, push-up"\n'
            ),
            "customers.csv": "customer_id,FN,Active,age\n00000dbacae5,,,49.0\n",
            "sample_submission.csv": "customer_id,prediction\n00000dbacae5,0706016001 0706016002\n",
        },
        [("000058a12d5b", "0663713001", "hm", at("2018-09-20"))],
    ),
    "kuairand": (
        {
            "log_standard_4_08_to_4_21_1k.csv": (
                f"{KUAIRAND_HEAD}\n0,4193,20220421,1800,1650535806234,1,0,0,0,0,0,1,103433,103433,0,0,0,0,1\n"
            ),
            "log_random_4_22_to_5_08_1k.csv": (
                f"{KUAIRAND_HEAD}\n0,77,20220422,1800,1650622206234,0,0,0,0,0,0,0,0,5000,0,0,0,1,4\n"
            ),
            "user_features_1k.csv": "user_id,user_active_degree\n0,full_active\n",
            "video_features_basic_1k.csv": "video_id,author_id\n0,1\n",
        },
        [("0", "4193", "1", 1_650_535_806), ("0", "77", "4", 1_650_622_206)],
    ),
    "lastfm 1K": (
        {
            "userid-timestamp-artid-artname-traid-traname.tsv": (
                "user_000001\t2009-05-04T23:08:57Z\tf1b1cf71\tDeep Dish\t\tFuck Me I\"m Famous\n"
                "user_000001\t2009-05-04T13:54:10Z\ta7f7df4a\t坂本龍一\tf7c1f8f8\tComposition 0919\n"
            ),
            "userid-profile.tsv": "#id\tgender\tage\tcountry\tregistered\nuser_000001\tm\t\tJapan\tAug 13, 2006\n",
            "README.txt": "Version 1.0\n",
        },
        [
            ("user_000001", "Deep Dish", "lastfm", at("2009-05-04 23:08:57")),
            ("user_000001", "坂本龍一", "lastfm", at("2009-05-04 13:54:10")),
        ],
    ),
    "mind": (
        {
            "behaviors.tsv": (
                "1\tU13740\t11/11/2019 9:05:58 AM\tN55189 N42782\tN55689-1 N35729-0\n"
                "2\tU91836\t11/12/2019 6:11:30 PM\t\tN20678-0 N39317-1 N58114-1\n"
            ),
            "news.tsv": "N55528\tlifestyle\tlifestyleroyals\tThe Brands Queen\tShop\thttps://a\t[]\t[]\n",
            "entity_embedding.vec": "Q41\t-0.063388\t-0.181451\n",
        },
        [
            ("U13740", "N55689", "mind", at("2019-11-11 09:05:58")),
            ("U91836", "N39317", "mind", at("2019-11-12 18:11:30")),
            ("U91836", "N58114", "mind", at("2019-11-12 18:11:30")),
        ],
    ),
    "otto": (
        {"otto-recsys-train.jsonl": OTTO},
        [
            ("12899779", "1142000", "otto", 1_661_724_058),
            ("12899779", "59625", "otto", 1_661_724_000),
            ("12899780", "59625", "otto", 1_661_724_091),
        ],
    ),
    "diginetica": (
        {
            "train-item-views.csv": (
                "session_id;user_id;item_id;timeframe;eventdate\n1;NA;81766;526309;2016-05-09\n"
                "1;NA;31331;1031018;2016-05-09\n"
            ),
            "train-queries.csv": "query_id;session_id;user_id;timeframe;duration\n1;1;NA;2;3\n",
            "products.csv": "item_id;pricelog2;product.name.tokens\n1;10;1,2\n",
            "product-categories.csv": "item_id;category_id\n139578;1096\n",
        },
        [
            ("1", "31331", "diginetica", at("2016-05-09") + 1031),
            ("1", "81766", "diginetica", at("2016-05-09") + 526),
        ],
    ),
    "xwines": (
        {
            "XWines_Slim_150K_ratings.csv": (
                "RatingID,UserID,WineID,Vintage,Rating,Date\n143,1356810,103471,1950,4.5,2021-11-02 20:52:59\n"
            ),
            "XWines_Slim_1K_wines.csv": 'WineID,WineName,Grapes\n100001,Espumante,"[\'Muscat\']"\n',
        },
        [("1356810", "103471", "xwines", at("2021-11-02 20:52:59"))],
    ),
    "foursquare": (
        {
            "dataset_TSMC2014_NYC.txt": (
                "470\t49bbd6c0f964a520f4531fe3\t4bf58dd8d48988d127951735\tArts & Crafts Store\t40.7198\t"
                f"-74.0025\t-240\t{TWEET_TIME}\n"
            ),
            "dataset_TSMC2014_TKY.txt": (
                "1541\t4f0fd5a8e4b03856eeb6c8cb\t4bf58dd8d48988d10c951735\tCaf\xe9\t35.705\t139.619\t540\t"
                f"{TWEET_TIME}\n"
            ).encode("latin-1"),
        },
        [
            ("1541", "4f0fd5a8e4b03856eeb6c8cb", "TKY", at("2012-04-03 18:00:09")),
            ("470", "49bbd6c0f964a520f4531fe3", "NYC", at("2012-04-03 18:00:09")),
        ],
    ),
}  # fmt: skip


def download(folder, log):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in LOGS[log][0].items():
        data = text if isinstance(text, bytes) else text.encode()
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder
